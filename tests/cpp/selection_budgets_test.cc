// How many blocks a list keeps: budgets of single heads, and those that are a share of the attention.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "hsattn/plan/budgets.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Tensors;

// The share of full attention that each token has for query i, averaged over the heads of kv head 0.
std::vector<double> shares_of_tokens(const Problem& p, const Tensors<float>& in, const PlanShape& shape, Index i) {
  const Index end = shape.causal ? shape.position(i) + 1 : shape.keys;
  std::vector<double> shares(static_cast<std::size_t>(end), 0.0);
  for (Index h = 0; h < p.group(); ++h) {
    std::vector<double> weight(shares.size());
    double sum = 0;
    for (Index t = 0; t < end; ++t) {
      double score = 0;
      for (Index c = 0; c < p.dim; ++c) score += double{in.q.row(0, h, i)[c]} * in.k.row(0, 0, t)[c];
      sum += weight[t] = std::exp(score * p.scale_used());
    }
    for (Index t = 0; t < end; ++t) shares[t] += weight[t] / sum / static_cast<double>(p.group());
  }
  return shares;
}

double sum_of(const std::vector<double>& shares, Range tokens) {
  double sum = 0;
  for (Index t = tokens.begin; t < tokens.end; ++t) sum += shares[t];
  return sum;
}

// A search over all blocks, rescored, knows all the attention: a mass budget holds what it says, with as few blocks.
TEST(Selection, MassBudgetsHoldTheirShareWithAsFewBlocksAsPossible) {
  Index between = 0;  // lists that the share decides
  for (const Index group : {1, 3}) {
    for (const bool causal : {true, false}) {
      for (const double mass : {0.3, 0.6, 0.9}) {
        Problem p{.name = "mass", .heads = group, .queries = 60, .keys = 405, .dim = 64};
        p.options = {Pattern::kHsa, causal, {}};
        p.options.hsa = {.window = 16,
                         .top_k = 256,
                         .candidates = 4096,
                         .block = 4,
                         .sinks = 6,
                         .dense_until = 0,
                         .mass = mass,
                         .min_top_k = 8};
        SCOPED_TRACE(describe(p));
        Tensors<float> in = random_tensors(p, 7);
        in.q.for_each([](float& x, Index, Index, Index, Index) { x *= 2; });
        const Plan plan = plan_of(p, in);
        ASSERT_EQ(covers_each_token_once(plan), "");
        const Index least = 2 + plan.shape.sinks;
        for (Index i = 0; i < p.queries; ++i) {
          const std::vector<double> shares = shares_of_tokens(p, in, plan.shape, i);
          const auto list = plan.list(0, 0, i);
          double held = sum_of(shares, plan.shape.near(plan.shape.position(i))), lightest = 1;
          for (const Index b : list) {
            const double share = sum_of(shares, {b * 4, std::min(p.keys, b * 4 + 4)});
            held += share;
            if (b >= plan.shape.sinks) lightest = std::min(lightest, share);
          }
          ASSERT_GE(std::ssize(list), least);
          const bool some = std::ssize(list) > least, all = std::ssize(list) == plan.shape.slots();
          between += some && !all;
          constexpr double kRounding = 0.01;  // vectors are rounded to bytes
          if (!all) {
            ASSERT_GE(held, mass - kRounding) << "query " << i;
          }
          if (some) {
            ASSERT_LT(held - lightest, mass + kRounding) << "query " << i;
          }
        }
      }
    }
  }
  EXPECT_GT(between, 300);
}

// A key/value head with a top_k of its own attends what it would alone, by the same dense_until.
TEST(Selection, HeadsWithBudgetsOfTheirOwnListWhatTheyDoAlone) {
  const std::vector<Index> top_k = {8, 40, 20};
  for (const double mass : {0.0, 0.9}) {
    for (const double tail : {0.0, 0.5}) {
      Problem p{.name = "heads", .heads = 6, .kv_heads = 3, .queries = 300, .keys = 300, .dim = 24};
      p.options.hsa = testing::smallest_budgets(/*far_field=*/false);
      p.options.hsa.candidates = 64;
      p.options.hsa.dense_until = 60;
      p.options.hsa.mass = mass;
      p.options.hsa.min_top_k = 4;
      p.options.hsa.tail = tail;
      p.options.hsa.head_top_k = top_k;
      SCOPED_TRACE(describe(p));
      const Tensors<float> in = random_tensors(p, 1);
      const Plan plan = plan_of(p, in);
      const testing::Solution<float> together = solve_in_one_pass(p, in, nullptr);
      Index differing = 0;  // the test's power: from lists of another head's budget
      for (Index h = 0; h < p.kv_heads; ++h) {
        Problem alone = p;
        alone.heads = 2, alone.kv_heads = 1;
        alone.options.hsa.head_top_k.clear();
        alone.options.hsa.top_k = top_k[h];
        const Tensors<float> own{heads_of(in.q, 2 * h, 2), heads_of(in.k, h, 1), heads_of(in.v, h, 1), {}};
        const Plan right = plan_of(alone, own);
        alone.options.hsa.top_k = 16;
        const Plan wrong = plan_of(alone, own);
        alone.options.hsa.top_k = top_k[h];
        for (Index i = 0; i < p.queries; ++i) {
          const auto a = plan.list(0, h, i), b = right.list(0, 0, i), c = wrong.list(0, 0, i);
          ASSERT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << "head " << h << ", query " << i;
          differing += !std::equal(a.begin(), a.end(), c.begin(), c.end());
        }
        EXPECT_TRUE(same_bits(testing::heads_of(together.o, 2 * h, 2), solve_in_one_pass(alone, own, nullptr).o))
            << "head " << h;
      }
      EXPECT_GT(differing, 500);
    }
  }
}

TEST(Selection, EqualBudgetsOfHeadsAreOneForAll) {
  for (const Index candidates : {16, 96}) {
    Problem p{.name = "equal", .heads = 4, .kv_heads = 2, .queries = 200, .keys = 200, .dim = 24};
    p.options.hsa = testing::smallest_budgets();
    p.options.hsa.candidates = candidates;
    const Tensors<float> in = random_tensors(p, 1);
    Problem by_head = p;
    by_head.options.hsa.head_top_k = {p.options.hsa.top_k, p.options.hsa.top_k};
    by_head.options.hsa.top_k = 1;  // not looked at
    EXPECT_EQ(plan_of(by_head, in), plan_of(p, in));
  }
}

// As budgets are stored, so that a stored plan chooses as the one that it was stored from.
TEST(Selection, AMassCountsInMillionths) {
  Problem p{.name = "mass", .queries = 300, .keys = 300, .dim = 24};
  p.options = {Pattern::kHsa, true, testing::smallest_budgets()};
  p.options.hsa.min_top_k = 4;
  p.options.hsa.mass = 1.0 / 3;
  const Tensors<float> in = random_tensors(p, 1);
  Problem stored = p, other = p;
  stored.options.hsa = options_of_budgets(budgets_of(p.options.hsa));
  other.options.hsa.mass = 0.5;
  EXPECT_NE(stored.options.hsa.mass, p.options.hsa.mass);
  EXPECT_EQ(mass_budget(stored.options.hsa), mass_budget(p.options.hsa));
  EXPECT_EQ(plan_of(stored, in), plan_of(p, in));
  EXPECT_NE(plan_of(other, in), plan_of(p, in));
}

TEST(Selection, AMassOfOneKeepsAllThatTopKAllows) {
  for (const Index candidates : {0, 96}) {
    Problem p{.name = "mass of 1", .queries = 60, .keys = 400, .dim = 64};
    p.options.hsa = {
        .window = 8, .top_k = 32, .candidates = candidates, .block = 4, .sinks = 4, .top_nodes = 8, .dense_until = 0};
    const Tensors<float> in = random_tensors(p, 5);
    const Plan plan = plan_of(p, in);
    p.options.hsa.mass = 1;
    EXPECT_EQ(plan_of(p, in).blocks, plan.blocks);
  }
}

TEST(Selection, MinTopKIsKeptWhateverItWeighs) {
  // One key holds all the attention; the lists still have min_top_k tokens, or top_k if that is less.
  for (const auto& [min_top_k, blocks] : {std::pair<Index, std::size_t>{1, 1}, {17, 5}, {1000, 8}}) {
    for (const Index candidates : {0, 96}) {
      Problem p{.name = "needle", .queries = 1, .keys = 256, .dim = 64};
      p.options.hsa = {.window = 8,
                       .top_k = 32,
                       .candidates = candidates,
                       .block = 4,
                       .sinks = 0,
                       .top_nodes = 64,
                       .dense_until = 0,
                       .mass = 0.5,
                       .min_top_k = min_top_k};
      SCOPED_TRACE(describe(p));
      Tensors<float> in = random_tensors(p, 2);
      for (Index c = 0; c < p.dim; ++c) in.k.row(0, 0, 122)[c] = 8 * in.q.row(0, 0, 0)[c];
      const Plan plan = plan_of(p, in);
      const auto list = plan.list(0, 0, 0);
      EXPECT_EQ(list.size(), blocks);
      EXPECT_TRUE(std::find(list.begin(), list.end(), 30) != list.end());
    }
  }
}

}  // namespace
}  // namespace hsattn
