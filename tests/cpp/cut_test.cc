// Any cut equals the whole: queries cut into calls, as prefill in chunks and decoding do, get the same lists and the
// same bits of o and lse.
#include <gtest/gtest.h>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Random;
using testing::Solution;
using testing::Tensors;
using testing::uniform;

// Queries [begin, end) of the whole; causal calls know only the keys up to their last query.
void expect_piece_equals_whole(const Problem& whole, const Tensors<float>& in, const Plan& plan,
                               const Solution<float>& right, Index begin, Index end) {
  SCOPED_TRACE(concat("queries [", begin, ", ", end, ")"));
  Problem p = whole;
  p.queries = end - begin;
  p.keys = whole.keys - (whole.queries - end);
  ASSERT_TRUE(p.options.causal || end == whole.queries);
  const Tensors<float> piece{tokens_of(in.q, begin, end), tokens_of(in.k, 0, p.keys), tokens_of(in.v, 0, p.keys), {}};
  const Plan found_plan = plan_of(p, piece);
  const Solution<float> found = solve_forward(p, piece, found_plan);
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.kv_heads; ++h) {
      for (Index i = begin; i < end; ++i) {
        const auto a = plan.list(b, h, i), c = found_plan.list(b, h, i - begin);
        ASSERT_TRUE(std::equal(a.begin(), a.end(), c.begin(), c.end())) << "list of query " << i;
      }
    }
  }
  ASSERT_TRUE(same_bits(found.o, tokens_of(right.o, begin, end)));
  for (Index head = 0; head < p.batch * p.heads; ++head) {
    ASSERT_TRUE(testing::same_bits(found.lse.data() + head * p.queries, right.lse.data() + head * whole.queries + begin,
                                   p.queries));
  }
}

Problem random_problem(Random& random, bool causal) {
  Problem p{.name = "random", .batch = uniform(random, 1, 2)};
  p.options = testing::selecting_options(random, causal);
  p.options.hsa.sinks = uniform(random, 0, 9);
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * testing::one_of<Index>(random, {1, 3});
  p.dim = testing::one_of<Index>(random, {8, 24, 64});
  p.keys = uniform(random, 100, 500);
  p.queries = uniform(random, 0, 2) == 0 ? uniform(random, 20, p.keys) : p.keys;
  choose_head_budgets(random, p);
  return p;
}

TEST(Cut, ChunksOfAnySizeEqualTheWhole) {
  Random random(51);
  Index lists = 0;
  for (int i = 0; i < 40; ++i) {
    const Problem p = random_problem(random, true);
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const Plan plan = plan_of(p, in);
    const Solution<float> right = solve_forward(p, in, plan);
    for (Index begin = 0; begin < p.queries;) {
      const Index end = std::min(p.queries, begin + testing::one_of<Index>(random, {1, 2, 3, 7, 16, 33, 100}));
      expect_piece_equals_whole(p, in, plan, right, begin, end);
      if (HasFatalFailure()) return;
      begin = end;
    }
    for (Index q = 0; q < p.queries; ++q) lists += !plan.list(0, 0, q).empty();
  }
  EXPECT_GT(lists, 2000);
}

TEST(Cut, DecodingTokenByTokenEqualsTheWhole) {
  for (const bool far_field : {false, true}) {
    Problem p{.name = "decode", .heads = 3, .queries = 230, .keys = 230, .dim = 64};
    Random random(4);
    p.options = testing::searching_options(random, true);
    p.options.hsa.top_k = 24;
    p.options.hsa.candidates = 64;
    p.options.hsa.far_field = far_field;
    p.options.hsa.node = 0;
    SCOPED_TRACE(describe(p));
    const Tensors<float> in = random_tensors(p, 3);
    const Plan plan = plan_of(p, in);
    const Solution<float> right = solve_forward(p, in, plan);
    for (Index i = 0; i < p.queries; ++i) {
      expect_piece_equals_whole(p, in, plan, right, i, i + 1);
      if (HasFatalFailure()) return;
    }
  }
}

// Queries whose list in the whole is not the one that they have as the last of a shorter sequence.
Index lists_that_know_the_length(const Problem& whole) {
  const Plan plan = plan_of(whole, random_tensors(whole, 3));
  Index count = 0;
  for (Index i = 0; i < whole.queries; ++i) {
    Problem p = whole;
    p.queries = 1;
    p.keys = i + 1;
    const Plan alone = plan_of(p, random_tensors(p, 3));
    const auto a = plan.list(0, 0, i), b = alone.list(0, 0, 0);
    count += !std::equal(a.begin(), a.end(), b.begin(), b.end());
  }
  return count;
}

TEST(Cut, PositionsListTheSameWhateverTheLength) {
  for (const Pattern pattern : testing::kListingPatterns) {
    Problem p{.name = "length", .queries = 300, .keys = 300, .dim = 8};
    p.options = {pattern, true, {}};
    p.options.hsa = {.window = 8, .top_k = 24, .block = 4, .sinks = 4};
    EXPECT_EQ(lists_that_know_the_length(p), 0) << name_of(pattern);
    p.options.causal = false;  // the test's power: on both sides lists depend on where the sequence ends
    EXPECT_GT(lists_that_know_the_length(p), 100) << name_of(pattern);
  }
}

TEST(Cut, FullAndLocalToo) {
  for (const Pattern pattern : {Pattern::kFull, Pattern::kLocal}) {
    Problem p{.name = "no lists", .heads = 3, .queries = 150, .keys = 170, .dim = 64};
    p.options.pattern = pattern;
    p.options.hsa.window = 20;
    const Tensors<float> in = random_tensors(p, 3);
    const Plan plan = plan_of(p, in);
    const Solution<float> right = solve_forward(p, in, plan);
    for (const auto& [begin, end] : {std::pair<Index, Index>{0, 1}, {0, 77}, {77, 78}, {5, 150}, {149, 150}}) {
      expect_piece_equals_whole(p, in, plan, right, begin, end);
    }
    p.options.causal = false;
    const Plan both_sides = plan_of(p, in);
    const Solution<float> all = solve_forward(p, in, both_sides);
    for (const Index begin : {1, 77, 149}) expect_piece_equals_whole(p, in, both_sides, all, begin, p.queries);
  }
}

TEST(Cut, BothSidesCutAtTheEnd) {
  Random random(52);
  for (int i = 0; i < 20; ++i) {
    const Problem p = random_problem(random, false);
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const Plan plan = plan_of(p, in);
    const Solution<float> right = solve_forward(p, in, plan);
    for (const Index begin : {p.queries - 1, p.queries - 9, p.queries / 2, Index{1}}) {
      expect_piece_equals_whole(p, in, plan, right, begin, p.queries);
    }
  }
}

}  // namespace
}  // namespace hsattn
