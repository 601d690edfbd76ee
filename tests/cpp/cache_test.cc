// A cache gives what attention over the whole sequence gives, bit by bit, however its tokens came in.
#include "hsattn/cache/cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <stdexcept>

#include "support/cache_mirror.h"

namespace hsattn {
namespace {

using testing::Answer;
using testing::append_rest;
using testing::cache_options;
using testing::one_of;
using testing::Problem;
using testing::Random;
using testing::random_cache_problem;
using testing::range_of_tokens;
using testing::Tensor;
using testing::Tensors;
using testing::Tokens;
using testing::type_of;
using testing::uniform;

// A query's part of an answer over more of them.
template <class T>
void expect_part(const Problem& p, const Answer<T>& part, const Answer<T>& whole, Index begin, Index end) {
  const Index queries = end - begin, all = whole.o.tokens;
  ASSERT_TRUE(same_bits(part.o, tokens_of(whole.o, begin, end)));
  for (Index h = 0; h < p.heads; ++h) {
    ASSERT_TRUE(testing::same_bits(part.lse.data() + h * queries, whole.lse.data() + h * all + begin, queries));
  }
  const Index slots = std::ssize(part.lists) / (p.kv_heads * queries);
  for (Index h = 0; h < p.kv_heads; ++h) {
    ASSERT_TRUE(testing::same_bits(part.lists.data() + h * queries * slots,
                                   whole.lists.data() + (h * all + begin) * slots, queries * slots));
  }
}

using NextCut = std::function<Index(Index)>;  // how many tokens come after these

void expect_cuts_equal_the_whole(const Problem& p, std::uint64_t seed, const CacheOptions& changes,
                                 const NextCut& next_cut) {
  testing::with_stored_tensors(p, seed, [&]<class T>(const Tensors<T>& stock) {
    const Answer<T> whole = answer_of_whole(p, stock, range_of_tokens(0, p.keys), p.keys);
    KeyValueCache cache(cache_options<T>(p, changes.page, changes.rounded_keys));
    for (Index begin = 0; begin < p.keys;) {
      const Index end = std::min(p.keys, begin + next_cut(begin));
      SCOPED_TRACE(concat("tokens [", begin, ", ", end, ")"));
      const Tokens tokens = range_of_tokens(0, end);
      append_rest(p, stock, tokens, cache, 0);
      ASSERT_EQ(cache.length(0), end);
      expect_part(p, answer_of_cache(p, stock, tokens, end - begin, cache, 0), whole, begin, end);
      if (::testing::Test::HasFatalFailure()) return;
      begin = end;
    }
  });
}

TEST(Cache, HundredRandomCutsEqualTheWhole) {
  Random random(71);
  for (int i = 0; i < 100; ++i) {
    const Problem p = random_cache_problem(random, uniform(random, 1, 400));
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    CacheOptions changes;
    changes.page = one_of<Index>(random, {64, 128, 256});
    changes.rounded_keys = one_of<std::optional<bool>>(random, {{}, true, false});
    expect_cuts_equal_the_whole(p, static_cast<std::uint64_t>(i), changes,
                                [&](Index) { return one_of<Index>(random, {1, 2, 3, 7, 16, 33, 100, 300}); });
    if (HasFatalFailure()) return;
  }
}

struct Case {
  const char* name;
  Index heads, kv_heads, keys, dim, block;
  bool far_field;
  Pooling pooling = Pooling::kMean;
  Index node = 0;
  double tail = 0;
  Index parts = 1;
  Index other_top_k = 0;  // of the second kv head
};

constexpr Case kCases[] = {
    {"one head", 1, 1, 300, 64, 8, false},
    {"group of 3", 3, 1, 300, 64, 8, false},
    {"group of 8, far field", 8, 1, 200, 24, 8, true},
    {"two kv heads, maxima", 6, 2, 200, 80, 8, true, Pooling::kMax},
    {"blocks of 1", 3, 1, 200, 8, 1, false},
    {"blocks of 2, far field", 1, 1, 200, 8, 2, true},
    {"blocks of 4", 3, 1, 270, 24, 4, false},
    {"blocks of 16", 3, 1, 330, 24, 16, false},
    {"blocks of 64", 1, 1, 600, 8, 64, false},
    {"wide", 1, 1, 150, 256, 8, false},
    {"pairs of nodes of 8", 3, 1, 300, 24, 2, false, Pooling::kMean, 8},
    {"tokens of nodes of 4", 1, 1, 270, 24, 1, false, Pooling::kMean, 4},
    {"tail", 3, 1, 300, 64, 8, false, Pooling::kMax, 0, 0.5},
    {"pairs of nodes of 8, tail", 6, 2, 300, 24, 2, false, Pooling::kMean, 8, 0.5},
    {"halves of nodes of 8", 3, 1, 300, 24, 2, false, Pooling::kMean, 8, 0, 2},
    {"quarters of blocks, far field", 1, 1, 200, 24, 4, true, Pooling::kMax, 0, 0, 4},
    {"halves of nodes of 8, tail", 6, 2, 300, 24, 2, false, Pooling::kMean, 8, 0.5, 2},
    {"nodes of 16 in pairs, tail", 1, 1, 300, 24, 1, false, Pooling::kMean, 16, 0.5, 8},
    {"a budget for each kv head, tail", 6, 2, 300, 24, 2, false, Pooling::kMean, 8, 0.5, 1, 28},
};

Problem problem_of(const Case& c) {
  Problem p{.name = c.name, .heads = c.heads, .kv_heads = c.kv_heads, .queries = c.keys, .keys = c.keys, .dim = c.dim};
  p.options.hsa = testing::smallest_budgets(c.far_field);
  p.options.hsa.block = c.block;
  p.options.hsa.node = c.node;
  p.options.hsa.tail = c.tail;
  p.options.hsa.parts = c.parts;
  if (c.other_top_k > 0) p.options.hsa.head_top_k = {p.options.hsa.top_k, c.other_top_k};
  p.options.hsa.pooling = c.pooling;
  return p;
}

// Passes every border of a unit, a block, a node of each level and a page.
TEST(Cache, TokenByTokenEqualsTheWhole) {
  for (const Case& c : kCases) {
    const Problem p = problem_of(c);
    SCOPED_TRACE(describe(p));
    for (const bool rounded : {false, true}) {
      expect_cuts_equal_the_whole(p, 3, {.page = 64, .rounded_keys = rounded}, [](Index) { return 1; });
      if (HasFatalFailure()) return;
    }
  }
}

// How long a past is dense depends on the type then, which every call has to look at.
TEST(Cache, AutoDenseUntilIsThatOfWholeCalls) {
  Problem p{.name = "auto", .heads = 2, .kv_heads = 1, .queries = 1300, .keys = 1300, .dim = 16};
  p.options.hsa = testing::smallest_budgets();
  p.options.hsa.dense_until = -1;
  expect_cuts_equal_the_whole(p, 7, {.page = 64}, [](Index begin) { return begin == 0 ? 1200 : 50; });
  testing::with_stored_tensors(p, 7, [&]<class T>(const Tensors<T>& stock) {
    const AttentionInputs in{stock.q.view(), stock.k.view(), stock.v.view(), p.scale};
    const Plan plan = make_plan(in.q, in.k, p.options);
    Answer<T> whole(p, 1, p.queries), planned(p, 1, p.queries);
    attention_forward(in, p.options, whole.outputs(), whole.lists.data());
    attention_forward(in, plan, planned.outputs());
    EXPECT_EQ(plan.blocks, whole.lists);
    EXPECT_TRUE(same_bits(planned.o, whole.o));
    EXPECT_EQ(plan.shape.dense(1299), dense_until_of(p.options.hsa, type_of<T>()) > 1300);
    EXPECT_TRUE(plan.shape.dense(1000));
  });
}

// The power of the tests above: what a wrong cache would do changes bits.
TEST(Cache, AWrongTokenShows) {
  Problem p{.name = "wrong", .heads = 3, .queries = 300, .keys = 300, .dim = 24};
  p.options.hsa = testing::smallest_budgets(true);
  testing::with_stored_tensors(p, 5, [&]<class T>(const Tensors<T>& stock) {
    const Tokens right = range_of_tokens(0, 290);
    const Answer<T> answer = answer_of_whole(p, stock, right, 30);
    const auto found_with = [&](const Tokens& tokens) {
      KeyValueCache cache(cache_options<T>(p));
      append_rest(p, stock, tokens, cache, 0);
      return answer_of_cache(p, stock, right, 30, cache, 0);
    };
    EXPECT_TRUE(found_with(right) == answer);
    for (const Index place : {0, 7, 64, 130, 255, 289}) {  // as after a write to a page that a fork shares
      Tokens wrong = right;
      wrong[place] = 299;
      EXPECT_FALSE(found_with(wrong) == answer) << place;
    }
    Tokens shifted = right;  // as after a crop to the wrong length
    shifted.erase(shifted.begin() + 100);
    shifted.push_back(290);
    EXPECT_FALSE(found_with(shifted) == answer);
  });
}

TEST(Cache, TwoThreadsGiveTheSameBits) {
  Random random(73);
  const auto pool = make_thread_pool(2);
  for (int i = 0; i < 10; ++i) {
    const Problem p = random_cache_problem(random, 2000);
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    testing::with_stored_tensors(p, 6, [&]<class T>(const Tensors<T>& stock) {
      const Tokens tokens = range_of_tokens(0, 2000);
      KeyValueCache one(cache_options<T>(p)), two(cache_options<T>(p));
      append_rest(p, stock, tokens, one, 0);
      append_rest(p, stock, tokens, two, 0, *pool);
      for (const Index queries : {1, 700}) {
        EXPECT_TRUE(answer_of_cache(p, stock, tokens, queries, one, 0) ==
                    answer_of_cache(p, stock, tokens, queries, two, 0, *pool));
      }
    });
  }
}

// An executor that fails in its n-th loop.
class FailsAt final : public Executor {
 public:
  explicit FailsAt(int loop) : loop_(loop) {}
  int threads() const override { return 1; }
  void run(Index tasks, const std::function<void(Index)>& body) override {
    if (loop_-- == 0) throw std::runtime_error("no more");
    serial_executor().run(tasks, body);
  }

 private:
  int loop_;
};

TEST(Cache, AnAppendThatFailsLeavesItAsItWas) {
  Problem p{.name = "failing", .heads = 3, .kv_heads = 3, .queries = 140, .keys = 140, .dim = 16};
  p.options = {Pattern::kHsa, true, testing::smallest_budgets()};
  testing::with_stored_tensors(p, 5, [&]<class T>(Tensors<T> stock) {
    const Tokens tokens = range_of_tokens(0, 100);
    const Answer<T> right = answer_of_whole(p, stock, tokens, 30);
    for (Tensor<T>* x : {&stock.k, &stock.v}) {
      x->for_each([&](T& e, Index, Index, Index t, Index) { e = t < 100 ? e : static_cast<T>(std::nanf("")); });
    }
    for (const int loop : {0, 1}) {
      KeyValueCache cache(cache_options<T>(p));
      append_rest(p, stock, tokens, cache, 0);
      FailsAt executor(loop);
      EXPECT_THROW(append_rest(p, stock, range_of_tokens(0, 140), cache, 0, executor), std::runtime_error);
      EXPECT_EQ(cache.length(0), 100);
      EXPECT_TRUE(answer_of_cache(p, stock, tokens, 30, cache, 0) == right) << "loop " << loop;
    }
  });
}

Index plain_bytes(const KeyValueCache& cache, Index tokens) {
  const CacheOptions& o = cache.options();
  return 2 * o.kv_heads * tokens * o.dim * size_of(o.dtype);
}

TEST(Cache, TakesLittleMoreThanKeysAndValues) {
  Problem p{.name = "memory", .heads = 3, .kv_heads = 3, .queries = 8192, .keys = 8192, .dim = 64};
  testing::with_stored_tensors(p, 5, [&]<class T>(const Tensors<T>& stock) {
    KeyValueCache cache(cache_options<T>(p, 256));
    append_rest(p, stock, range_of_tokens(0, 8192), cache, 0);
    const double ratio = static_cast<double>(cache.bytes()) / static_cast<double>(plain_bytes(cache, 8192));
    const bool as_stored = type_of<T>() == DType::kFloat32 || has_pair_products(selected_isa());
    // Without products of pairs half-precision numbers are kept as floats.
    EXPECT_LE(ratio, type_of<T>() == DType::kFloat32 ? 1.25 : as_stored ? 1.15 : 2.50);
    EXPECT_GT(ratio, 1.0);
  });
}

}  // namespace
}  // namespace hsattn
