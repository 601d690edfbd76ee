// A cache gives what attention over the whole sequence gives, bit by bit, however its tokens came in.
#include "hsattn/cache/cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <memory>

#include "support/cached.h"

namespace hsattn {
namespace {

using testing::Answer;
using testing::append_rest;
using testing::cache_options;
using testing::Layout;
using testing::one_of;
using testing::Problem;
using testing::Random;
using testing::range_of_tokens;
using testing::Tensors;
using testing::Tokens;
using testing::type_of;
using testing::uniform;

// A stock of `keys` tokens and how they are attended.
Problem random_problem(Random& random, Index keys) {
  Problem p{.name = "random", .queries = keys, .keys = keys};
  p.options = testing::selecting_options(random, true);
  p.options.hsa.sinks = uniform(random, 0, 9);
  if (uniform(random, 0, 9) == 0) p.options.pattern = one_of(random, {Pattern::kFull, Pattern::kLocal});
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * one_of<Index>(random, {1, 3, 8});
  p.dim = one_of<Index>(random, {8, 24, 64, 80});
  p.layout = one_of(random, {Layout::kContiguous, Layout::kTokenMajor, Layout::kPadded});
  return p;
}

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
    const Problem p = random_problem(random, uniform(random, 1, 400));
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    const CacheOptions changes{.page = one_of<Index>(random, {64, 128, 256}),
                               .rounded_keys = one_of<std::optional<bool>>(random, {{}, true, false})};
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
};

Problem problem_of(const Case& c) {
  Problem p{.name = c.name, .heads = c.heads, .kv_heads = c.kv_heads, .queries = c.keys, .keys = c.keys, .dim = c.dim};
  p.options.hsa = testing::smallest_budgets(c.far_field);
  p.options.hsa.block = c.block;
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

// Sequences of a cache and the tokens that they should hold.
template <class T>
struct Mirror {
  Problem p;
  const Tensors<T>& stock;
  KeyValueCache cache;
  std::vector<Tokens> sequences;

  Mirror(const Problem& problem, const Tensors<T>& tokens, Index count, Index page)
      : p(problem),
        stock(tokens),
        cache(cache_options<T>(p, page), count),
        sequences(static_cast<std::size_t>(count)) {}

  void append(Index i, Index first, Index count) {
    const Tokens more = range_of_tokens(first, first + count);
    sequences[i].insert(sequences[i].end(), more.begin(), more.end());
    append_rest(p, stock, sequences[i], cache, i);
  }
  void crop(Index i, Index length) {
    sequences[i].resize(static_cast<std::size_t>(length));
    cache.crop(i, length);
  }
  void fork(Index i) {
    ASSERT_EQ(cache.fork(i), std::ssize(sequences));
    const Tokens tokens = sequences[i];
    sequences.push_back(tokens);
  }
  void reorder(const std::vector<Index>& parents) {
    std::vector<Tokens> children;
    for (const Index parent : parents) children.push_back(sequences[parent]);
    cache.reorder(parents);
    sequences = children;
  }
  void save_and_load() {
    const std::string path = ::testing::TempDir() + "hsattn_cache_test" + std::to_string(getpid());
    cache.save(path);
    cache = KeyValueCache::load(path);
    ASSERT_EQ(std::remove(path.c_str()), 0);
  }
  // All sequences, the last `queries` of each.
  void check(Index queries) {
    ASSERT_EQ(cache.sequences(), std::ssize(sequences));
    for (Index i = 0; i < cache.sequences(); ++i) {
      const Index length = std::ssize(sequences[i]), some = std::min(queries, length);
      SCOPED_TRACE(concat("sequence ", i, " of ", length, " tokens"));
      ASSERT_EQ(cache.length(i), length);
      const Answer<T> right = answer_of_whole(p, stock, sequences[i], some);
      ASSERT_TRUE(answer_of_cache(p, stock, sequences[i], some, cache, i) == right);
    }
  }
};

template <class T>
std::string random_step(Mirror<T>& m, Random& random) {
  const Index count = std::ssize(m.sequences), i = uniform(random, 0, count - 1), length = std::ssize(m.sequences[i]);
  switch (uniform(random, 0, 7)) {
    case 0:
      m.crop(i, uniform(random, 0, length));
      return concat("crop ", i);
    case 1:
      m.crop(i, std::max<Index>(0, length - uniform(random, 1, 9)));
      return concat("crop a few of ", i);
    case 2:
      if (count < 4) m.fork(i);
      return concat("fork ", i);
    case 3: {
      std::vector<Index> parents;
      for (Index n = uniform(random, 1, 4); n > 0; --n) parents.push_back(uniform(random, 0, count - 1));
      m.reorder(parents);
      return "reorder";
    }
    case 4:
      if (uniform(random, 0, 3) == 0) m.save_and_load();
      return "save and load";
    default: {
      const Index most = std::min<Index>(m.stock.k.tokens, 300 - std::min<Index>(300, length));
      const Index tokens = std::min(most, one_of<Index>(random, {1, 1, 2, 7, 8, 63, 64, 65, 200}));
      m.append(i, uniform(random, 0, m.stock.k.tokens - tokens), tokens);
      return concat("append ", tokens, " to ", i);
    }
  }
}

TEST(Cache, StaysRightAfterCropForkReorderAndLoad) {
  for (int seed = 0; seed < 12; ++seed) {
    Random random(static_cast<std::uint64_t>(seed) + 900);
    const Problem p = random_problem(random, 300);
    SCOPED_TRACE(describe(p) + concat(", seed ", seed));
    testing::with_stored_tensors(p, static_cast<std::uint64_t>(seed), [&]<class T>(const Tensors<T>& stock) {
      Mirror<T> m(p, stock, 2, 64);
      for (int step = 0; step < 40; ++step) {
        SCOPED_TRACE(concat("step ", step, ": ", random_step(m, random)));
        m.check(uniform(random, 1, 3));
        if (HasFatalFailure()) return;
      }
    });
    if (HasFatalFailure()) return;
  }
}

// Every length around which a unit, block, node or page begins.
TEST(Cache, CropsAndForksAtEveryBorder) {
  Problem p{.name = "borders", .heads = 3, .queries = 300, .keys = 300, .dim = 24};
  p.options.hsa = testing::smallest_budgets(false);
  testing::with_stored_tensors(p, 5, [&]<class T>(const Tensors<T>& stock) {
    for (const Index border : {1, 2, 4, 8, 16, 32, 64, 128, 192, 256}) {
      for (Index length = border - 1; length <= border + 1; ++length) {
        SCOPED_TRACE(concat("length ", length));
        Mirror<T> m(p, stock, 1, 64);
        m.append(0, 0, 300);
        m.fork(0);
        m.crop(0, length);
        m.append(0, 10, 1);  // other tokens than before
        m.check(1);
        m.append(0, 100, 150);
        m.append(1, 20, 9);
        m.check(20);
        if (HasFatalFailure()) return;
      }
    }
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

TEST(Cache, BatchesOfDifferentLengthsEqualEachSequenceAlone) {
  Random random(72);
  for (int i = 0; i < 10; ++i) {
    const Problem p = random_problem(random, 300);
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    testing::with_stored_tensors(p, 5, [&]<class T>(const Tensors<T>& stock) {
      Mirror<T> m(p, stock, 0, 64);
      m.cache = KeyValueCache(cache_options<T>(p, 64), 3);
      m.sequences.resize(3);
      for (Index s = 0; s < 3; ++s) m.append(s, uniform(random, 0, 50), uniform(random, 2, 250));
      const std::vector<Index> order{2, 0, 1, 0};  // one of them twice
      testing::Tensor<T> q(4, p.heads, 2, p.dim);
      Answer<T> all(p, 4, 2);
      for (Index b = 0; b < 4; ++b) {
        const Tokens& tokens = m.sequences[order[b]];
        const auto own = picked(stock.q, tokens, std::ssize(tokens) - 2, Layout::kContiguous);
        std::copy(own.data.begin(), own.data.end(), q.row(b, 0, 0));
      }
      for (const int threads : {1, 2}) {
        const auto pool = make_thread_pool(threads);
        m.cache.attend(order, as_const(q.view()), p.options, p.scale, all.outputs(), all.lists.data(), *pool);
        for (Index b = 0; b < 4; ++b) {
          const Answer<T> right = answer_of_whole(p, stock, m.sequences[order[b]], 2);
          EXPECT_TRUE(testing::same_bits(all.o.row(b, 0, 0), right.o.data.data(), std::ssize(right.o.data)));
          EXPECT_TRUE(
              testing::same_bits(all.lse.data() + b * std::ssize(right.lse), right.lse.data(), std::ssize(right.lse)));
          EXPECT_TRUE(testing::same_bits(all.lists.data() + b * std::ssize(right.lists), right.lists.data(),
                                         std::ssize(right.lists)));
        }
      }
    });
  }
}

TEST(Cache, TwoThreadsGiveTheSameBits) {
  Random random(73);
  const auto pool = make_thread_pool(2);
  for (int i = 0; i < 10; ++i) {
    const Problem p = random_problem(random, 2000);
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

// What was cropped, and what a position does not see, may hold anything.
TEST(Cache, NaNThatIsNotSeenHurtsNobody) {
  Problem p{.name = "not finite", .heads = 3, .queries = 300, .keys = 300, .dim = 24};
  for (const bool far_field : {false, true}) {
    p.options.hsa = testing::smallest_budgets(far_field);
    testing::with_stored_tensors(p, 5, [&]<class T>(Tensors<T> stock) {
      for (Index t = 250; t < 260; ++t) {
        for (T* row : {stock.k.row(0, 0, t), stock.v.row(0, 0, t)}) {
          std::fill_n(row, p.dim, static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
        }
      }
      Mirror<T> m(p, stock, 1, 64);
      m.append(0, 0, 203);
      m.append(0, 250, 9);
      m.crop(0, 204);
      m.crop(0, 203);
      m.check(3);
      m.append(0, 203, 2);
      m.check(3);
      m.append(0, 210, 40);
      m.check(40);
    });
  }
}

Index plain_bytes(const KeyValueCache& cache, Index tokens) {
  const CacheOptions& o = cache.options();
  return 2 * o.kv_heads * tokens * o.dim * size_of(o.dtype);
}

TEST(Cache, GrowsByPagesThatForksShare) {
  Problem p{.name = "pages", .heads = 2, .kv_heads = 2, .queries = 2048, .keys = 2048, .dim = 64};
  p.options.pattern = Pattern::kFull;  // no pyramid: pages of tokens alone
  testing::with_stored_tensors(p, 5, [&]<class T>(const Tensors<T>& stock) {
    Mirror<T> m(p, stock, 1, 256);
    m.append(0, 0, 1);
    const Index page = m.cache.bytes();
    EXPECT_GE(page, 2 * 2 * 256 * 64 * size_of(type_of<T>()));
    for (const auto& [length, pages] : {std::pair<Index, Index>{256, 1}, {257, 2}, {512, 2}, {1300, 6}}) {
      m.append(0, 0, length - m.cache.length(0));
      EXPECT_EQ(m.cache.bytes(), pages * page) << length;
    }
    m.fork(0);
    m.fork(1);
    EXPECT_EQ(m.cache.bytes(), 6 * page);  // nothing is copied
    m.append(1, 5, 1);
    EXPECT_EQ(m.cache.bytes(), 7 * page);  // but the last page, when one of them writes
    m.append(1, 6, 700);
    EXPECT_EQ(m.cache.bytes(), 9 * page);
    m.crop(1, 1280);
    EXPECT_EQ(m.cache.bytes(), 6 * page);
    m.append(1, 7, 1);
    m.check(1);
    m.reorder({0});
    EXPECT_EQ(m.cache.bytes(), 6 * page);
    m.crop(0, 0);
    EXPECT_EQ(m.cache.bytes(), 0);
  });
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
