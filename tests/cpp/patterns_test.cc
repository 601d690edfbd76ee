// Patterns of other papers: their lists against the papers' formulas, token by token; what a budget and what chance do.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "hsattn/base/math.h"
#include "hsattn/plan/budgets.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::kListingPatterns;
using testing::Problem;
using testing::Random;

// A plan of these patterns needs no more of the tensors than their sizes.
Plan plan_for(const PlanOptions& options, Index queries, Index keys, Index kv_heads = 1) {
  Problem p{.name = "lists", .heads = kv_heads, .kv_heads = kv_heads, .queries = queries, .keys = keys, .dim = 8};
  p.options = options;
  return plan_of(p, random_tensors(p, 1));
}

std::set<Index> seen_tokens(const Plan& plan, Index query, Index kv_head = 0) {
  const PlanShape& s = plan.shape;
  const Range near = s.near(s.position(query));
  std::set<Index> seen;
  for (Index t = near.begin; t < near.end; ++t) seen.insert(t);
  for (const Index b : plan.list(0, kv_head, query)) {
    for (Index t = b * s.block; t < std::min(s.keys, (b + 1) * s.block); ++t) seen.insert(t);
  }
  return seen;
}

// The definition: a position and a token, in blocks. Blocks are what the papers call tokens.
struct Pair {
  const PlanOptions& options;
  Index position, token;

  Index block(Index t) const { return floor_div(t, options.hsa.block); }
  Index row() const { return block(position); }
  Index column() const { return block(token); }
  Index first_near() const { return block(position - options.hsa.window); }
  Index last_near() const { return block(position + options.hsa.window); }
  Index in_blocks(Index tokens) const { return ceil_div(tokens, options.hsa.block); }

  bool allowed() const { return !options.causal || token <= position; }
  bool near() const { return column() >= first_near() && column() <= last_near(); }
  bool sink() const { return column() < in_blocks(options.hsa.sinks); }
  bool from_global() const {
    const bool global = options.pattern == Pattern::kLongformer || options.pattern == Pattern::kBigBird;
    return global && !options.causal && position >= 0 && row() < in_blocks(options.hsa.sinks);
  }
  // Child et al., section 4.2 and 4.3, the union of both heads.
  bool strided() const { return (row() - column()) % in_blocks(options.hsa.stride) == 0; }
  bool fixed() const {
    const Index l = in_blocks(options.hsa.stride);
    return floor_div(column(), l) == floor_div(row(), l) || column() % l == l - 1;
  }
  // Beltagy et al., section 3.1: behind the near window, with gaps of d - 1.
  bool dilated() const {
    const Index count = in_blocks(options.hsa.top_k);
    for (Index j = 1; j <= count; ++j) {
      if (column() == first_near() - options.hsa.dilation * j && (options.causal || j <= (count + 1) / 2)) return true;
      if (!options.causal && column() == last_near() + options.hsa.dilation * j && j <= count / 2) return true;
    }
    return false;
  }
  bool seen() const {
    if (!allowed()) return false;
    if (near() || sink() || from_global()) return true;
    switch (options.pattern) {
      case Pattern::kSparseTransformer:
        return strided();
      case Pattern::kSparseTransformerFixed:
        return fixed();
      case Pattern::kLongformer:
        return dilated();
      default:
        return false;
    }
  }
};

std::set<Index> tokens_by_definition(const PlanOptions& options, Index position, Index keys) {
  std::set<Index> seen;
  for (Index t = 0; t < keys; ++t) {
    if (Pair{options, position, t}.seen()) seen.insert(t);
  }
  return seen;
}

std::string described(const PlanOptions& options, Index queries, Index keys) {
  Problem p{.name = "definition", .queries = queries, .keys = keys};
  p.options = options;
  return describe(p);
}

// Lengths and windows around the borders of blocks, segments and budgets.
template <class Body>
void for_each_small_case(const Body& body) {
  for (const bool causal : {true, false}) {
    for (const Index block : {1, 8}) {
      for (const Index window : {Index{0}, Index{3}, 2 * block, 5 * block - 1}) {
        for (const Index sinks : {Index{0}, Index{1}, block + 1}) {
          PlanOptions options{Pattern::kLongformer, causal, {}};
          options.hsa.block = block;
          options.hsa.window = window;
          options.hsa.sinks = sinks;
          const Index n = 13 * block;
          for (const auto& [queries, keys] : {std::pair<Index, Index>{1, 1},
                                              {block + 1, block + 1},
                                              {n, n},
                                              {n + 1, n + 1},
                                              {5, n - 1},
                                              {n, n - 9}}) {
            body(options, queries, keys);
          }
        }
      }
    }
  }
}

void expect_as_defined(const PlanOptions& options, Index queries, Index keys) {
  SCOPED_TRACE(described(options, queries, keys));
  const Plan plan = plan_for(options, queries, keys);
  ASSERT_EQ(covers_each_token_once(plan), "");
  for (Index i = 0; i < queries; ++i) {
    ASSERT_EQ(seen_tokens(plan, i), tokens_by_definition(options, plan.shape.position(i), keys)) << "query " << i;
  }
}

TEST(Patterns, SparseTransformerAttendsWhatItsPaperDefines) {
  for_each_small_case([](PlanOptions options, Index queries, Index keys) {
    options.hsa.top_k = 30 * options.hsa.block;  // all of the past
    for (const Pattern pattern : {Pattern::kSparseTransformer, Pattern::kSparseTransformerFixed}) {
      for (const Index stride : {1, 2, 4, 7}) {
        options.pattern = pattern;
        options.hsa.stride = stride * options.hsa.block;
        expect_as_defined(options, queries, keys);
      }
    }
  });
}

TEST(Patterns, LongformerAttendsWhatItsPaperDefines) {
  for_each_small_case([](PlanOptions options, Index queries, Index keys) {
    for (const Index top_k : {1, 4, 5}) {
      for (const Index dilation : {1, 2, 3}) {
        options.hsa.top_k = top_k * options.hsa.block;
        options.hsa.dilation = dilation;
        expect_as_defined(options, queries, keys);
      }
    }
  });
}

TEST(Patterns, AStrideInTheMiddleOfABlockIsRoundedUp) {
  PlanOptions options{Pattern::kSparseTransformer, true, {}};
  options.hsa.stride = 17;
  const Plan found = plan_for(options, 100, 900);
  options.hsa.stride = 24;
  EXPECT_EQ(found, plan_for(options, 100, 900));
}

// The past of a position in blocks without sinks, the nearest to its near window first, of equal ones the left.
std::vector<Index> past_by_distance(const PlanShape& s, Index position) {
  const Index first = floor_div(position - s.window, s.block), last = floor_div(position + s.window, s.block);
  std::vector<Index> past;
  for (Index b = s.sinks; b < s.blocks(); ++b) {
    if (s.left(position).contains(b) || s.right(position).contains(b)) past.push_back(b);
  }
  std::stable_sort(past.begin(), past.end(), [&](Index a, Index b) {
    const auto distance = [&](Index c) { return c < first ? first - c : c - last; };
    return distance(a) < distance(b);
  });
  return past;
}

// Without a stride: every S-th block, where S just lets the budget reach all of the past, and then the nearest.
std::set<Index> listed_without_stride(const PlanOptions& options, const PlanShape& s, Index position) {
  const std::vector<Index> past = past_by_distance(s, position);
  Index stride = 1;
  const bool fixed = options.pattern == Pattern::kSparseTransformerFixed;
  while (stride * s.kept < std::ssize(past)) stride = fixed ? 2 * stride : stride + 1;
  const Index residue = fixed ? stride - 1 : floor_div(position, s.block);
  std::vector<Index> order = past;
  std::stable_partition(order.begin(), order.end(),
                        [&](Index b) { return floor_div(b - residue, stride) * stride == b - residue; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(s.kept)));
  return {order.begin(), order.end()};
}

TEST(Patterns, SparseTransformerWithoutAStrideReachesAllOfThePastAndUsesItsBudget) {
  for_each_small_case([](PlanOptions options, Index queries, Index keys) {
    for (const Pattern pattern : {Pattern::kSparseTransformer, Pattern::kSparseTransformerFixed}) {
      for (const Index top_k : {1, 3, 8}) {
        options.pattern = pattern;
        options.hsa.top_k = top_k * options.hsa.block;
        SCOPED_TRACE(described(options, queries, keys));
        const Plan plan = plan_for(options, queries, keys);
        ASSERT_EQ(covers_each_token_once(plan), "");
        for (Index i = 0; i < queries; ++i) {
          std::set<Index> listed;
          for (const Index b : plan.list(0, 0, i)) {
            if (b >= plan.shape.sinks) listed.insert(b);
          }
          ASSERT_EQ(listed, listed_without_stride(options, plan.shape, plan.shape.position(i))) << "query " << i;
        }
      }
    }
  });
}

TEST(Patterns, ABudgetBelowTheStridesColumnsKeepsTheNearest) {
  PlanOptions options{Pattern::kSparseTransformer, true, {}};
  options.hsa = {.window = 0, .top_k = 3, .block = 1, .sinks = 0, .stride = 10};
  EXPECT_EQ(seen_tokens(plan_for(options, 1, 100), 0), (std::set<Index>{69, 79, 89, 99}));
  options.pattern = Pattern::kSparseTransformerFixed;  // its own segment first
  EXPECT_EQ(seen_tokens(plan_for(options, 1, 93), 0), (std::set<Index>{89, 90, 91, 92}));
}

TEST(Patterns, BigBirdDrawsAsManyBlocksOfThePastAsItsBudgetHolds) {
  for_each_small_case([](PlanOptions options, Index queries, Index keys) {
    options.pattern = Pattern::kBigBird;
    for (const Index top_k : {1, 4}) {
      options.hsa.top_k = top_k * options.hsa.block;
      SCOPED_TRACE(described(options, queries, keys));
      const Plan plan = plan_for(options, queries, keys);
      ASSERT_EQ(covers_each_token_once(plan), "");
      for (Index i = 0; i < queries; ++i) {
        const Index position = plan.shape.position(i);
        const std::set<Index> seen = seen_tokens(plan, i), fixed = tokens_by_definition(options, position, keys);
        ASSERT_TRUE(std::includes(seen.begin(), seen.end(), fixed.begin(), fixed.end())) << "query " << i;
        const Index past = std::ssize(past_by_distance(plan.shape, position));
        const auto list = plan.list(0, 0, i);
        const Index drawn = std::count_if(list.begin(), list.end(), [&](Index b) { return b >= plan.shape.sinks; });
        ASSERT_EQ(drawn, std::min(past, top_k)) << "query " << i;
      }
    }
  });
}

PlanOptions bigbird(Index top_k, Index seed) {
  PlanOptions options{Pattern::kBigBird, true, {}};
  options.hsa = {.window = 0, .top_k = top_k, .block = 1, .sinks = 0, .pattern_seed = seed};
  return options;
}

TEST(Patterns, BigBirdDrawsEverySetOfBlocksEquallyOften) {
  constexpr Index kDraws = 6000;  // of 2 of 5 blocks: 10 sets, 600 each, standard deviation 23
  std::map<std::set<Index>, Index> by_seed, by_head;
  const Plan heads = plan_for(bigbird(2, 7), 1, 6, kDraws);
  for (Index i = 0; i < kDraws; ++i) {
    ++by_seed[seen_tokens(plan_for(bigbird(2, i), 1, 6), 0)];
    ++by_head[seen_tokens(heads, 0, i)];
  }
  for (const auto& count : {by_seed, by_head}) {
    EXPECT_EQ(count.size(), 10U);
    for (const auto& [set, times] : count) {
      EXPECT_EQ(set.size(), 3U);
      EXPECT_NEAR(static_cast<double>(times), 600, 5 * 23);
    }
  }
}

TEST(Patterns, BigBirdDrawsAnewForEachBlockHeadAndSeedOnly) {
  PlanOptions options{Pattern::kBigBird, true, {}};
  options.hsa = {.window = 16, .top_k = 32, .block = 8, .sinks = 8};
  const Plan plan = plan_for(options, 400, 600, 2);
  EXPECT_EQ(plan, plan_for(options, 400, 600, 2));
  options.hsa.pattern_seed = 1;
  const Plan other = plan_for(options, 400, 600, 2);
  Index same_head = 0, same_seed = 0, same_block = 0;
  for (Index i = 1; i < 400; ++i) {
    same_head += seen_tokens(plan, i, 0) == seen_tokens(plan, i, 1);
    same_seed += seen_tokens(plan, i) == seen_tokens(other, i);
    const auto a = plan.list(0, 0, i - 1), b = plan.list(0, 0, i);
    const bool equal = std::equal(a.begin(), a.end(), b.begin(), b.end());
    if (plan.shape.position(i) % 8 != 0) {
      ASSERT_TRUE(equal) << "query " << i;
    }
    same_block += equal && plan.shape.position(i) % 8 == 0;
  }
  EXPECT_EQ(same_head, 0);
  EXPECT_EQ(same_seed, 0);
  EXPECT_EQ(same_block, 0);
}

TEST(Patterns, AllAttendTheSameNumberOfTokens) {
  for (const bool causal : {true, false}) {
    for (const Index keys : {4096, 5001}) {
      std::map<std::string, std::size_t> attended;
      const auto add = [&](Pattern pattern) {
        // The middle, where the near window is whole on both sides, and the end.
        const Plan plan = plan_for({pattern, causal, {}}, causal ? 1 : keys / 2, keys);
        attended[name_of(pattern)] = seen_tokens(plan, 0).size();
      };
      add(Pattern::kHsa);
      for (const Pattern pattern : kListingPatterns) add(pattern);
      for (const auto& [name, count] : attended) EXPECT_EQ(count, attended["hsa"]) << name << ", keys " << keys;
    }
  }
}

TEST(Patterns, GlobalTokensAttendEverythingAndOnlyThey) {
  for (const Pattern pattern : kListingPatterns) {
    PlanOptions options{pattern, false, {}};
    options.hsa = {.window = 8, .top_k = 16, .sinks = 9};
    const Plan plan = plan_for(options, 300, 300);
    const bool global = pattern == Pattern::kLongformer || pattern == Pattern::kBigBird;
    EXPECT_EQ(plan.shape.global_tokens, global ? 16 : 0);
    for (Index i = 0; i < 300; ++i) ASSERT_EQ(seen_tokens(plan, i).size() == 300, global && i < 16) << "query " << i;
    for (Index i = 0; i < 300; ++i) ASSERT_EQ(seen_tokens(plan, i).count(15), 1U) << "query " << i;
    const std::string says = "the first 16 positions attend everything";
    EXPECT_EQ(describe(plan).find(says) != std::string::npos, global);
    options.causal = true;
    EXPECT_EQ(plan_for(options, 300, 300).shape.global_tokens, 0);
  }
}

TEST(Patterns, OptionsOfTheSearchAreNotLookedAt) {
  for (const Pattern pattern : kListingPatterns) {
    PlanOptions plain{pattern, true, {}}, other = plain;
    other.hsa.candidates = 100, other.hsa.beam = 3, other.hsa.top_nodes = 5, other.hsa.dense_until = 500;
    other.hsa.far_field = true, other.hsa.pooling = Pooling::kMax, other.hsa.mass = 0.5, other.hsa.min_top_k = 7,
    other.hsa.node = 32, other.hsa.tail = 0.5, other.hsa.parts = 4;
    EXPECT_EQ(plan_for(plain, 700, 900), plan_for(other, 700, 900)) << name_of(pattern);
  }
}

TEST(Patterns, BudgetsSurviveAsNumbers) {
  HsaOptions o{.window = 1,
               .top_k = 2,
               .candidates = 3,
               .block = 4,
               .sinks = 5,
               .top_nodes = 6,
               .beam = 7,
               .dense_until = 8,
               .far_field = true,
               .levels = 3,
               .pooling = Pooling::kMax,
               .mass = 0.123456,
               .min_top_k = 13,
               .stride = 14,
               .dilation = 15,
               .pattern_seed = 16,
               .node = 17,
               .tail = 0.25,
               .parts = 18,
               .head_top_k = {19, 20}};
  const std::vector<Index> numbers = budgets_of(o);
  EXPECT_EQ(numbers,
            (std::vector<Index>{1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 1, 123456, 13, 14, 15, 16, 17, 250000, 18, 19, 20}));
  EXPECT_EQ(options_of_budgets(numbers), o);
  EXPECT_EQ(options_of_budgets(budgets_of({})), HsaOptions());
}

}  // namespace
}  // namespace hsattn
