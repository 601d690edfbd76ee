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

}  // namespace
}  // namespace hsattn
