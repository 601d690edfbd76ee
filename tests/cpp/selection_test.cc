// What the fast search keeps, against the scores in double, stage by stage.
//
// The search is right if at every stage each kept node scores at least the best rejected one minus a tolerance. Where
// every stage of the search in double is decided by more than the tolerance, the lists must be equal; positions with a
// near-tie are checked by their last stage alone, and must be few.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "hsattn/kernels/reference/reference.h"
#include "hsattn/plan/budgets.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using reference::Stage;
using testing::Problem;
using testing::Random;
using testing::Tensors;
using testing::uniform;

// Of log-scores (one head) absolute, of masses (several heads) relative: float32 rounding of scores of a few units.
constexpr double kTolerance = 1e-4;

// Of shares of the attention, which the kernels add up from weights rounded to 2^-20 of the largest.
constexpr double kShareTolerance = 2e-5;

double tolerance_at(double score, Index group) { return group == 1 ? kTolerance : kTolerance * std::abs(score) + 1e-9; }

// Score of the worst kept node minus that of the best rejected one; infinite if none is rejected.
double margin(const Stage& stage, const std::set<Index>& kept) {
  double worst_kept = std::numeric_limits<double>::infinity(), best_rejected = -worst_kept;
  for (std::size_t j = 0; j < stage.nodes.size(); ++j) {
    if (kept.count(stage.nodes[j]) > 0) {
      worst_kept = std::min(worst_kept, stage.scores[j]);
    } else {
      best_rejected = std::max(best_rejected, stage.scores[j]);
    }
  }
  return worst_kept - best_rejected;
}

struct Count {
  Index positions = 0, clear = 0, rejecting = 0;
  std::set<Index> levels;
};

std::set<Index> without_sinks(std::span<const std::int32_t> list, Index sinks) {
  std::set<Index> blocks;
  for (const Index b : list) {
    if (b >= sinks) blocks.insert(b);
  }
  return blocks;
}

void check_position(const std::vector<Stage>& trace, std::span<const std::int32_t> list, const PlanShape& shape,
                    Index group, Count& count) {
  const std::set<Index> found = without_sinks(list, shape.sinks);
  bool clear = true;
  ++count.positions;
  for (const Stage& stage : trace) {
    if (&stage == &trace.back() && clear) {
      // Here the candidates of both searches are the same: every kept block must be one, and score well enough.
      for (const Index b : found) {
        ASSERT_TRUE(std::binary_search(stage.nodes.begin(), stage.nodes.end(), b)) << "block " << b;
      }
      if (stage.slack > kShareTolerance) {
        ASSERT_EQ(found.size(), stage.kept.size());
      }
      const double best = stage.scores.empty() ? 0 : *std::max_element(stage.scores.begin(), stage.scores.end());
      ASSERT_GE(margin(stage, found), -tolerance_at(best, group));
    }
    const std::set<Index> kept(stage.kept.begin(), stage.kept.end());
    count.levels.insert(stage.level);
    count.rejecting += kept.size() < stage.nodes.size();
    double worst = std::numeric_limits<double>::infinity();
    for (std::size_t j = 0; j < stage.nodes.size(); ++j) {
      if (kept.count(stage.nodes[j]) > 0) worst = std::min(worst, stage.scores[j]);
    }
    clear = clear && (kept.size() == stage.nodes.size() || margin(stage, kept) > tolerance_at(worst, group));
    clear = clear && stage.slack > kShareTolerance;
  }
  count.clear += clear;
  if (clear) {
    ASSERT_EQ(found, std::set<Index>(trace.back().kept.begin(), trace.back().kept.end()));
  }
}

// Compares all lists of make_plan in float32 with the traced search in double on the same numbers.
void check_problem(const Problem& p, std::uint64_t seed, Count& count) {
  SCOPED_TRACE(describe(p) + concat(", seed ", seed));
  const Tensors<float> in = random_tensors(p, seed);
  const Plan plan = plan_of(p, in);
  ASSERT_NO_THROW(check_plan(plan));
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.kv_heads; ++h) {
      const reference::SearchBudget budget(plan.shape, p.options, h);
      const reference::Pyramid keys = reference::make_search_pyramid(
          reference::load_head(in.k.view(), b, h), plan.shape.node, plan.shape.pooling, plan.shape.parts);
      std::vector<reference::Matrix> heads;
      for (Index g = 0; g < p.group(); ++g) heads.push_back(reference::load_head(in.q.view(), b, h * p.group() + g));
      for (Index i = 0; i < p.queries; ++i) {
        if (plan.shape.dense(plan.shape.position(i))) {
          ASSERT_TRUE(plan.list(b, h, i).empty());
          continue;
        }
        std::vector<std::span<const double>> queries;
        for (const reference::Matrix& head : heads) queries.push_back(head.row(i));
        std::vector<Stage> trace;
        const std::vector<Index> right =
            select_position(queries, keys, plan.shape, budget, p.scale_used(), plan.shape.position(i), &trace);
        SCOPED_TRACE(concat("batch ", b, ", kv head ", h, ", query ", i));
        const auto list = plan.list(b, h, i);
        if (p.options.hsa.mass == 0) {
          ASSERT_EQ(list.size(), right.size());
        }
        for (const Index sink : right) {
          if (sink < plan.shape.sinks) {
            ASSERT_TRUE(std::find(list.begin(), list.end(), sink) != list.end()) << "sink block " << sink;
          }
        }
        check_position(trace, list, plan.shape, p.group(), count);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

void expect_mostly_clear(const Count& count) {
  EXPECT_GT(count.positions, 0);
  EXPECT_GT(count.rejecting, count.positions / 2);
  EXPECT_GT(static_cast<double>(count.clear), 0.9 * static_cast<double>(count.positions))
      << count.clear << " of " << count.positions << " positions have no near-tie";
}

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

struct StageCase {
  const char* name;
  Index candidates, top_nodes, beam, levels;
  double mass = 0;
  Pooling pooling = Pooling::kMean;
  Index block = 4, node = 0;
};

// One stage at a time decides, then all together.
constexpr StageCase kStages[] = {
    {"blocks by pooled keys", 0, 1024, 0, 0},
    {"rescoring of all blocks", 4096, 1024, 0, 0},
    {"candidates, then rescoring", 96, 1024, 0, 0},
    {"descent, narrow beam", 0, 8, 3, 0},
    {"descent, wide beam", 0, 8, 16, 0},
    {"descent from a named level", 0, 8, 4, 6},
    {"descent and rescoring", 64, 8, 8, 0},
    {"blocks by pooled keys, mass", 0, 1024, 0, 0, 0.3},
    {"rescoring of all blocks, mass", 4096, 1024, 0, 0, 0.5},
    {"descent and rescoring, mass", 64, 8, 8, 0, 0.8},
    {"blocks by maxima", 0, 1024, 0, 0, 0, Pooling::kMax},
    {"descent by maxima", 0, 8, 8, 0, 0, Pooling::kMax},
    {"descent by maxima and rescoring, mass", 64, 8, 8, 0, 0.8, Pooling::kMax},
    {"pairs of candidates of 8", 96, 8, 8, 0, 0, Pooling::kMean, 2, 8},
    {"single tokens of candidates of 8, mass", 96, 8, 8, 0, 0.5, Pooling::kMean, 1, 8},
    {"pairs of candidates of 4", 96, 8, 8, 0, 0, Pooling::kMean, 2, 4},
    {"blocks of candidates of 32", 128, 8, 4, 6, 0, Pooling::kMean, 8, 32},
};

TEST(Selection, EachStageKeepsTheHighestScores) {
  for (const StageCase& c : kStages) {
    for (const Index group : {1, 3}) {
      for (const bool causal : {true, false}) {
        Problem p{.name = c.name, .heads = group, .queries = 120, .keys = 500, .dim = 64};
        p.options = {Pattern::kHsa, causal, {}};
        p.options.hsa = {.window = 8,
                         .top_k = 32,
                         .candidates = c.candidates,
                         .block = c.block,
                         .sinks = 4,
                         .top_nodes = c.top_nodes,
                         .beam = c.beam,
                         .dense_until = 0,
                         .levels = c.levels,
                         .pooling = c.pooling,
                         .mass = c.mass,
                         .min_top_k = 8,
                         .node = c.node};
        Count count;
        check_problem(p, 5, count);
        if (HasFatalFailure()) return;
        SCOPED_TRACE(describe(p));
        expect_mostly_clear(count);
      }
    }
  }
}

TEST(Selection, EveryStageActsAtSmallBudgets) {
  Random random(31);
  Count count;
  for (int i = 0; i < 60; ++i) {
    Problem p{.name = "random", .batch = uniform(random, 1, 2)};
    p.options = testing::searching_options(random, uniform(random, 0, 2) > 0);
    p.options.hsa.sinks = uniform(random, 0, 12);
    if (uniform(random, 0, 4) == 0) p.options.hsa.levels = uniform(random, 1, 6);
    p.kv_heads = uniform(random, 1, 2);
    p.heads = p.kv_heads * testing::one_of<Index>(random, {1, 3, 8});
    p.dim = testing::one_of<Index>(random, {8, 24, 64, 80});
    p.keys = uniform(random, 40, 700);
    p.queries = uniform(random, 1, std::min<Index>(p.keys, 60));
    p.layout = testing::one_of(random, {testing::Layout::kContiguous, testing::Layout::kTokenMajor});
    choose_head_budgets(random, p);
    check_problem(p, static_cast<std::uint64_t>(i), count);
    if (HasFatalFailure()) return;
  }
  expect_mostly_clear(count);
  for (const Index level : {Stage::kRescore, Index{0}, Index{1}, Index{2}, Index{3}}) {
    EXPECT_TRUE(count.levels.count(level) > 0) << "level " << level << " never acted";
  }
}

TEST(Selection, TiesGoToTheLowerIndex) {
  // All keys are equal: every block scores the same at every level, and after rescoring.
  for (const Index group : {1, 3}) {
    Problem p{.name = "ties", .heads = group, .queries = 1, .keys = 256, .dim = 64};
    p.options.hsa = {.window = 8,
                     .top_k = 16,
                     .candidates = 32,
                     .block = 4,
                     .sinks = 4,
                     .top_nodes = 16,
                     .beam = 4,
                     .dense_until = 0};
    Tensors<float> in = random_tensors(p, 1);
    in.k.for_each([](float& x, Index, Index, Index, Index) { x = 0.25F; });
    const Plan plan = plan_of(p, in);
    EXPECT_EQ(plan.blocks, (std::vector<std::int32_t>{0, 1, 2, 3, 4})) << "group " << group;
  }
}

TEST(Selection, FindsTheBlockThatIsWanted) {
  // One key answers the query. Its block must be kept, wherever it lies.
  for (Index block = 1; block < 60; ++block) {
    Problem p{.name = "needle", .queries = 1, .keys = 256, .dim = 64};
    p.options.hsa = {
        .window = 8, .top_k = 8, .candidates = 64, .block = 4, .sinks = 4, .top_nodes = 8, .beam = 4, .dense_until = 0};
    Tensors<float> in = random_tensors(p, 2);
    for (Index c = 0; c < p.dim; ++c) in.k.row(0, 0, 4 * block + 2)[c] = 4 * in.q.row(0, 0, 0)[c];
    const auto list = plan_of(p, in).blocks;
    EXPECT_TRUE(std::find(list.begin(), list.end(), block) != list.end()) << "block " << block;
  }
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

// `levels` may name a level above the pyramid's top: the search starts at the top, in all types.
TEST(Selection, ALevelAboveThePyramidIsItsTop) {
  Problem p{.name = "few keys", .queries = 224, .keys = 24, .dim = 8};
  p.options = {Pattern::kHsa, false, {}};
  p.options.hsa = {.window = 0, .top_k = 1, .candidates = 1, .sinks = 0, .dense_until = 0, .levels = 6};
  for (const Index block : {1, 8}) {
    p.options.hsa.block = block;
    const Tensors<float> in = random_tensors(p, 1);
    const Plan fast = plan_of(p, in), exact = plan_of(p, in_double(in));
    EXPECT_EQ(fast, exact) << describe(p);
    EXPECT_GE(*std::max_element(fast.blocks.begin(), fast.blocks.end()), 0);
  }
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
