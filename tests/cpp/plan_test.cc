// The rules of plans, against their definition token by token; lists that break them must be caught.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "hsattn/base/math.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Random;
using testing::uniform;

PlanShape shape_of(bool causal, Index queries, Index keys, Index block, Index window, Index dense_until = 0) {
  PlanShape s{.batch = 1,
              .kv_heads = 1,
              .queries = queries,
              .keys = keys,
              .block = block,
              .node = block,
              .causal = causal,
              .window = window,
              .dense_until = dense_until};
  s.kept = 1;
  return s;
}

// A token is near if its node is one of the nodes from that of position - window to that of position + window.
bool is_near(const PlanShape& s, Index position, Index token) {
  const Index node = token / s.node;
  if (s.causal && token > position) return false;
  return node >= floor_div(position - s.window, s.node) && node <= floor_div(position + s.window, s.node);
}

bool is_allowed(const PlanShape& s, Index position, Index token) { return !s.causal || token <= position; }

void expect_ranges_as_defined(const PlanShape& s, Index position) {
  SCOPED_TRACE(concat(s.causal ? "causal" : "bidirectional", ", queries ", s.queries, ", keys ", s.keys, ", block ",
                      s.block, ", window ", s.window, ", dense_until ", s.dense_until, ", position ", position));
  Index past = 0;
  for (Index t = 0; t < s.keys; ++t) past += is_allowed(s, position, t) && !is_near(s, position, t);
  const bool dense = s.dense_until > 0 && past <= s.dense_until;
  ASSERT_EQ(s.dense(position), dense);
  const Range near = s.near(position), left = s.left(position), right = s.right(position);
  ASSERT_TRUE(near.begin >= 0 && near.begin <= near.end && near.end <= s.keys);
  for (Index t = 0; t < s.keys; ++t) {
    const Index block = t / s.block;
    const bool allowed = is_allowed(s, position, t);
    ASSERT_EQ(near.contains(t), allowed && (dense || is_near(s, position, t))) << "token " << t;
    const bool in_past = allowed && !dense && !is_near(s, position, t);
    ASSERT_EQ(left.contains(block) || right.contains(block), in_past) << "token " << t;
    if (left.contains(block)) {
      ASSERT_LT(t, std::max<Index>(near.begin, 1));
    }
    if (right.contains(block)) {
      ASSERT_FALSE(s.causal);
      ASSERT_GE(t, near.end);
    }
  }
}

TEST(Plan, RangesAreAsDefinedAtEveryBorder) {
  for (const bool causal : {true, false}) {
    for (const Index block : {1, 4, 8}) {
      for (const Index window : {0, 1, 7, 8, 16, 100}) {
        for (const auto& [queries, keys] : {std::pair<Index, Index>{1, 1}, {41, 41}, {5, 41}, {60, 41}, {3, 0}}) {
          for (const Index dense_until : {0, 12, 1000}) {
            const PlanShape s = shape_of(causal, queries, keys, block, window, dense_until);
            for (Index i = 0; i < queries; ++i) expect_ranges_as_defined(s, s.position(i));
          }
        }
      }
    }
  }
}

TEST(Plan, PositionsAreAlignedAtTheEnd) {
  EXPECT_EQ(shape_of(true, 3, 10, 8, 0).position(2), 9);
  EXPECT_EQ(shape_of(true, 10, 3, 8, 0).position(0), -7);
}

struct ShapeCase {
  const char* name;
  std::function<void(PlanOptions&)> change;
  PlanShape right;  // sizes are those of the test
};

TEST(Plan, ShapeRoundsBudgetsToBlocks) {
  const Index keys = 5000, queries = 300;
  const auto shape = [&](Index block, Index window, Index dense_until, Index sinks, Index kept, bool far,
                         Index levels) {
    return PlanShape{2, 3, queries, keys, block, block, true, window, dense_until, sinks, kept, far, levels};
  };
  // The tallest far node of `auto` has no limit that a sequence could reach.
  const Index any = plan_shape({}, DType::kFloat32, 1, 1, 1, 1).far_levels;
  EXPECT_GE(any, 31);
  const ShapeCase cases[] = {
      {"defaults", [](PlanOptions&) {}, shape(8, 128, 1024, 1, 64, false, any)},
      {"rounded up", [](PlanOptions& o) { o.hsa.top_k = 17, o.hsa.sinks = 9; }, shape(8, 128, 1024, 2, 3, false, any)},
      {"budget beats dense_until", [](PlanOptions& o) { o.hsa.dense_until = 0; },
       shape(8, 128, 520, 1, 64, false, any)},
      {"levels below block", [](PlanOptions& o) { o.hsa.levels = 2; }, shape(4, 128, 1024, 2, 128, false, 0)},
      {"levels above block", [](PlanOptions& o) { o.hsa.levels = 5; }, shape(8, 128, 1024, 1, 64, false, 2)},
      {"paper", [](PlanOptions& o) { o.hsa = HsaOptions::paper(); }, shape(8, 128, 1024, 1, 64, true, any)},
      {"maxima", [](PlanOptions& o) { o.hsa.pooling = Pooling::kMax; },
       PlanShape{2, 3, queries, keys, 8, 8, true, 128, 1024, 1, 64, false, any, Pooling::kMax}},
      {"pairs of nodes", [](PlanOptions& o) { o.hsa.block = 2, o.hsa.node = 8, o.hsa.sinks = 9; },
       PlanShape{2, 3, queries, keys, 2, 8, true, 128, 1024, 8, 256, false, any}},
      {"levels below node", [](PlanOptions& o) { o.hsa.block = 2, o.hsa.node = 8, o.hsa.levels = 2; },
       PlanShape{2, 3, queries, keys, 2, 4, true, 128, 1024, 4, 256, false, 1}},
      {"no sinks", [](PlanOptions& o) { o.hsa.sinks = 0; }, shape(8, 128, 1024, 0, 64, false, any)},
  };
  for (const ShapeCase& c : cases) {
    SCOPED_TRACE(c.name);
    PlanOptions options;
    c.change(options);
    EXPECT_EQ(plan_shape(options, DType::kFloat32, 2, 3, queries, keys), c.right);
  }
}

TEST(Plan, AutoIsDenseAsLongAsThatIsFaster) {
  struct AutoCase {
    const char* name;
    HsaOptions options;
    DType type;
    Isa isa;
    Index right;
  };
  constexpr DType kFloat = DType::kFloat32, kHalf = DType::kBFloat16;
  const HsaOptions usual = HsaOptions::any_model(), tail = HsaOptions::pretrained();
  HsaOptions given = usual, without_rescoring = usual;
  given.dense_until = 0;
  without_rescoring.candidates = without_rescoring.top_k;
  const AutoCase cases[] = {
      {"any_model", usual, kFloat, Isa::kAvx2, 1024},
      {"any_model", usual, kFloat, Isa::kAmx, 1024},
      {"any_model", usual, kHalf, Isa::kAvx512BFloat16, 1024},
      {"any_model", usual, kHalf, Isa::kAmx, 8192},
      {"without rescoring", without_rescoring, kHalf, Isa::kAmx, 2048},
      {"pretrained", tail, kFloat, Isa::kAmx, 4096},
      {"pretrained", tail, kHalf, Isa::kAmx, 8192},
      {"training", HsaOptions::training(), kHalf, Isa::kAmx, 1024},
      {"paper", HsaOptions::paper(), kHalf, Isa::kAmx, 1024},
      {"given", given, kHalf, Isa::kAmx, 0},
  };
  for (const AutoCase& c : cases) {
    EXPECT_EQ(dense_until_of(c.options, c.type, c.isa), c.right) << c.name << " " << name_of(c.isa);
  }
}

TEST(Plan, FullAndLocalHaveNoLists) {
  const PlanShape full = plan_shape({Pattern::kFull, true, {}}, DType::kFloat32, 1, 1, 50, 40);
  const PlanShape local = plan_shape({Pattern::kLocal, true, {}}, DType::kFloat32, 1, 1, 900, 900);
  EXPECT_EQ(full.slots(), 0);
  EXPECT_EQ(local.slots(), 0);
  for (Index i = 0; i < 50; ++i) EXPECT_EQ(full.near(full.position(i)), (Range{0, std::max<Index>(i - 9, 0)}));
  EXPECT_EQ(local.near(899), (Range{768, 900}));
  const PlanShape both_sides = plan_shape({Pattern::kFull, false, {}}, DType::kFloat32, 1, 1, 50, 40);
  for (Index i = 0; i < 50; ++i) EXPECT_EQ(both_sides.near(both_sides.position(i)), (Range{0, 40}));
}

TEST(Plan, NamesOfPatterns) {
  for (const std::string& name : pattern_names()) EXPECT_EQ(name_of(pattern_from_name(name)), name);
  EXPECT_EQ(pattern_names().size(), 7U);
  EXPECT_THROW(pattern_from_name("ful"), InvalidArgument);
  for (const Pooling pooling : {Pooling::kMean, Pooling::kMax}) EXPECT_EQ(pooling_from_name(name_of(pooling)), pooling);
}

struct FarCase {
  const char* name;
  bool causal;
  Index keys, position, far_levels;
  std::vector<std::int32_t> kept;
  std::vector<FarNode> right;
};

TEST(Plan, FarFieldIsCutIntoTheCoarsestNodes) {
  // Blocks of 4, window 0. Causal position 63: its past is blocks [0, 15).
  const FarCase cases[] = {
      {"nothing kept", true, 64, 63, 40, {}, {{3, 0, 32}, {2, 2, 16}, {1, 6, 8}, {0, 14, 4}}},
      {"first kept", true, 64, 63, 40, {0}, {{0, 1, 4}, {1, 1, 8}, {2, 1, 16}, {2, 2, 16}, {1, 6, 8}, {0, 14, 4}}},
      {"two kept", true, 64, 63, 40, {4, 13}, {{2, 0, 16}, {0, 5, 4}, {1, 3, 8}, {2, 2, 16}, {0, 12, 4}, {0, 14, 4}}},
      {"levels limited",
       true,
       64,
       63,
       1,
       {4, 13},
       {{1, 0, 8}, {1, 1, 8}, {0, 5, 4}, {1, 3, 8}, {1, 4, 8}, {1, 5, 8}, {0, 12, 4}, {0, 14, 4}}},
      {"past is one block", true, 64, 4, 40, {}, {{0, 0, 4}}},
      {"no past", true, 64, 3, 40, {}, {}},
      // 30 tokens are 8 blocks, the last one of 2 tokens. Position 9 sees block 2 as near.
      {"ragged right", false, 30, 9, 40, {}, {{1, 0, 8}, {0, 3, 4}, {2, 1, 14}}},
      {"ragged right, kept", false, 30, 9, 40, {6}, {{1, 0, 8}, {0, 3, 4}, {1, 2, 8}, {0, 7, 2}}},
      // 25 tokens are 7 blocks: the node of blocks 4 to 7 stands for three of them.
      {"node past the end", false, 25, 9, 40, {}, {{1, 0, 8}, {0, 3, 4}, {2, 1, 9}}},
  };
  for (const FarCase& c : cases) {
    SCOPED_TRACE(c.name);
    PlanShape s = shape_of(c.causal, c.keys, c.keys, 4, 0);
    s.far_field = true;
    s.far_levels = c.far_levels;
    std::vector<FarNode> found{{9, 9, 9}};
    far_field_of(s, c.position, c.kept, found);
    EXPECT_EQ(found, c.right) << "nodes: " << found.size();
  }
}

Problem random_problem(Random& random) {
  Problem p;
  p.options = testing::selecting_options(random, uniform(random, 0, 1) == 1);
  p.options.hsa.levels = uniform(random, 0, 3) == 0 ? uniform(random, 1, 6) : 0;
  p.options.hsa.sinks = uniform(random, 0, 20);
  p.keys = uniform(random, 0, 300);
  p.queries = uniform(random, 1, 60);
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * testing::one_of<Index>(random, {1, 3});
  p.dim = 8;
  choose_head_budgets(random, p);
  return p;
}

TEST(Coverage, HoldsForRandomOptions) {
  Random random(7);
  Index lists = 0;
  for (int i = 0; i < 300; ++i) {
    const Problem p = random_problem(random);
    SCOPED_TRACE(describe(p));
    const Plan plan = plan_of(p, testing::random_tensors(p, static_cast<std::uint64_t>(i)));
    ASSERT_NO_THROW(check_plan(plan));
    ASSERT_EQ(covers_each_token_once(plan), "");
    for (Index q = 0; q < p.queries; ++q) lists += !plan.list(0, 0, q).empty();
  }
  EXPECT_GT(lists, 1000);
}

struct BrokenCase {
  const char* name;
  std::vector<std::int32_t> list;  // of the last of 64 positions: blocks of 4, near run [56, 64), past blocks [0, 14)
  const char* check_says;
  const char* coverage_says;
};

TEST(Coverage, FindsBrokenPlans) {
  const std::string where = "batch 0, kv head 0, query 63: ";
  const BrokenCase cases[] = {
      {"right", {0, 3, 13}, "", ""},
      {"short", {3, -1, -1}, "", ""},
      {"empty", {-1, -1, -1}, "", ""},
      {"twice",
       {3, 3, -1},
       "plan: query 63 has block 3 after block 3; blocks must ascend",
       "token 12 is seen twice, the second time in a listed block"},
      {"descending", {5, 2, -1}, "plan: query 63 has block 2 after block 5; blocks must ascend", nullptr},
      {"near",
       {3, 14, -1},
       "plan: query 63 lists block 14; its past is blocks [0, 14) and [16, 16)",
       "token 56 is seen twice, the second time in a listed block"},
      {"beyond the end",
       {3, 16, -1},
       "plan: query 63 lists block 16; its past is blocks [0, 14) and [16, 16)",
       "listed block [64, 64) lies outside"},
      {"hole", {3, -1, 4}, "plan: query 63 has block 4 after the end of its list; -1 ends a list", nullptr},
      {"negative", {-2, 3, -1}, nullptr, nullptr},
  };
  for (const bool far_field : {false, true}) {
    for (const BrokenCase& c : cases) {
      SCOPED_TRACE(concat(c.name, far_field ? ", far field" : ""));
      Plan plan{shape_of(true, 64, 64, 4, 5), {}};
      plan.shape.kept = 3;
      plan.shape.far_field = far_field;
      plan.shape.far_levels = 40;
      plan.blocks.assign(64 * 3, -1);
      std::copy(c.list.begin(), c.list.end(), plan.blocks.end() - 3);
      std::string said;
      try {
        check_plan(plan);
      } catch (const InvalidArgument& error) {
        said = error.what();
      }
      if (c.check_says != nullptr) {
        EXPECT_EQ(said, c.check_says);
      } else {
        EXPECT_NE(said, "");
      }
      if (c.coverage_says != nullptr) {
        const std::string found = covers_each_token_once(plan);
        const std::string right = *c.coverage_says == '\0' ? "" : where + c.coverage_says;
        EXPECT_EQ(found.substr(0, right.size()), right);
        EXPECT_EQ(found.empty(), right.empty());
      }
    }
  }
}

// Plans may be made by hand, so their rules are checked as well as their lists.
TEST(Coverage, ShapesThatNoOptionsGiveAreRefused) {
  const std::pair<std::function<void(PlanShape&)>, const char*> cases[] = {
      {[](PlanShape& s) { s.block = 0; }, "plan: block is 0; it must be a power of two from 1 to 64"},
      {[](PlanShape& s) { s.block = 12; }, "plan: block is 12; it must be a power of two from 1 to 64"},
      {[](PlanShape& s) { s.block = -8; }, "plan: block is -8; it must be a power of two from 1 to 64"},
      {[](PlanShape& s) { s.node = 2; }, "plan: node is 2, block is 4; node must be a power of two from block to 64"},
      {[](PlanShape& s) { s.node = 8, s.sinks = 3; },
       "plan: sinks are 3 blocks, of which a node has 2; they must be whole nodes"},
      {[](PlanShape& s) { s.node = 8, s.far_field = true; },
       "plan: node is 8, block is 4, and the far field is on; they must be equal then"},
      {[](PlanShape& s) { s.window = -1; }, "plan: window is -1; it must be from 0 to 2^56"},
      {[](PlanShape& s) { s.kept = INT64_MAX; }, "plan: kept is 9223372036854775807; it must be from 0 to 2^56"},
      {[](PlanShape& s) { s.far_levels = 41; }, "plan: far_levels is 41; it must be from 0 to 40"},
      {[](PlanShape& s) { s.keys = -1; },
       "plan: sizes are batch 1, kv_heads 1, queries 64, keys -1; none may be negative"},
  };
  for (const auto& [spoil, says] : cases) {
    for (const Index kept : {0, 3}) {
      Plan plan{shape_of(true, 64, 64, 4, 5), std::vector<std::int32_t>(64 * 3, -1)};
      plan.shape.kept = kept;
      spoil(plan.shape);
      try {
        check_plan(plan);
        ADD_FAILURE() << "not refused: " << says;
      } catch (const InvalidArgument& error) {
        EXPECT_STREQ(error.what(), says);
      }
    }
  }
}

TEST(Coverage, SeesThatAFutureTokenIsAttended) {
  Plan plan{shape_of(true, 64, 64, 4, 5), std::vector<std::int32_t>(64, -1)};
  plan.blocks[20] = 10;
  EXPECT_EQ(covers_each_token_once(plan),
            "batch 0, kv head 0, query 20: listed block [40, 44) lies outside the tokens [0, 21) that it may see");
}

TEST(Plan, DescribeCountsAttendedTokens) {
  const PlanShape full = plan_shape({Pattern::kFull, true, {}}, DType::kFloat32, 1, 1, 4, 4);
  const std::string text = describe(PlanView(full, nullptr));
  EXPECT_NE(text.find("attended tokens: 2.5 on average, 4 at most"), std::string::npos) << text;
  EXPECT_EQ(text.find("listed"), std::string::npos) << text;
}

TEST(Plan, DescribeCountsListedTokensOfPositionsThatHaveAList) {
  Plan plan{shape_of(false, 2, 30, 4, 0), {3, 7, -1, -1}};
  plan.shape.kept = 2;
  const std::string text = describe(plan);
  EXPECT_NE(text.find("listed tokens of positions that have a list: 6 on average, 6 at most"), std::string::npos)
      << text;
}

}  // namespace
}  // namespace hsattn
