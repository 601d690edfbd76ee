// Forward and backward against the reference in double, with the same plan: at most twice the error of plain float32.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/plain.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Layout;
using testing::Problem;
using testing::Random;
using testing::Solution;
using testing::Tensors;
using testing::uniform;

// How many floors dk may have: 1 but for one case. With a single key the weight is 1 and dk is exactly 0, which plain
// float32 meets by cancelling equal terms; a kernel that takes dout.o from a stored o leaves rounding, and dk sums it
// over all rows: there the floor grows with the root of their number.
double floors_of_dk(const Problem& p) {
  const double rows = p.keys == 1 ? static_cast<double>(p.queries * p.group()) : 1;
  return std::max(1.0, std::sqrt(rows / 1024));
}

void expect_within_bound(const char* what, const testing::Tensor<float>& found, const testing::Tensor<float>& plain,
                         const testing::Tensor<double>& exact, double floors = 1) {
  const double allowed = 2 * max_error(plain, exact) + floors * testing::rounding_floor(largest_of(exact));
  EXPECT_LE(max_error(found, exact), allowed) << what;
  EXPECT_TRUE(padding_is_untouched(found)) << what;
}

void expect_as_exact_as_plain(const Problem& p, const Tensors<float>& in) {
  SCOPED_TRACE(describe(p));
  const Plan plan = plan_of(p, in);
  ASSERT_EQ(covers_each_token_once(plan), "");
  const Solution<float> found = solve(p, in, plan), plain = plain_solution(p, in, plan);
  const Solution<double> exact = solve(p, in_double(in), plan);
  expect_within_bound("o", found.o, plain.o, exact.o);
  expect_within_bound("dq", found.dq, plain.dq, exact.dq);
  expect_within_bound("dk", found.dk, plain.dk, exact.dk, floors_of_dk(p));
  expect_within_bound("dv", found.dv, plain.dv, exact.dv);
  for (std::size_t i = 0; i < exact.lse.size(); ++i) {
    if (exact.lse[i] == found.lse[i]) continue;  // -inf
    ASSERT_NEAR(found.lse[i], exact.lse[i], 2 * std::abs(plain.lse[i] - exact.lse[i]) + 1e-5) << "lse of row " << i;
  }
}

void expect_as_exact_as_plain(const Problem& p, std::uint64_t seed) {
  SCOPED_TRACE(concat("seed ", seed));
  expect_as_exact_as_plain(p, random_tensors(p, seed));
}

// Lengths are spread evenly over their logarithm; the dearest shapes are cut down so that 400 take seconds.
Index random_length(Random& random) {
  return static_cast<Index>(std::exp(std::uniform_real_distribution<double>(0, std::log(701.0))(random)));
}

Problem random_problem(Random& random) {
  Problem p{.name = "random"};
  p.options = testing::selecting_options(random, uniform(random, 0, 1) == 1);
  if (p.options.pattern == Pattern::kHsa) {
    p.options.pattern =
        testing::one_of(random, {Pattern::kFull, Pattern::kLocal, Pattern::kHsa, Pattern::kHsa, Pattern::kHsa});
  }
  HsaOptions& o = p.options.hsa;
  o.block = testing::one_of<Index>(random, {1, 2, 4, 8, 16, 32});
  testing::choose_node(random, o);
  o.window = uniform(random, 0, 40);
  o.sinks = uniform(random, 0, 12);
  o.levels = uniform(random, 0, 4) == 0 ? uniform(random, 1, 6) : 0;
  o.dense_until = testing::one_of<Index>(random, {0, 0, 100});
  p.dim = testing::one_of<Index>(random, {8, 24, 64, 80, 128, 256, uniform(random, 8, 256)});
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * testing::one_of<Index>(random, {1, 3, 8});
  p.batch = uniform(random, 1, 2);
  p.layout = testing::one_of(random, {Layout::kContiguous, Layout::kTokenMajor, Layout::kPadded});
  p.keys = std::max<Index>(1, random_length(random));
  p.queries = std::max<Index>(1, uniform(random, 0, 1) == 0 ? p.keys : random_length(random));
  const double cost = static_cast<double>(p.batch * p.heads * p.queries * p.keys * p.dim);
  constexpr double kDearest = 1.5e7;  // multiply-adds of one product of all queries with all keys
  if (cost > kDearest) {
    p.batch = p.kv_heads = 1;
    p.heads = uniform(random, 0, 1) == 0 ? 1 : 3;
    p.dim = testing::one_of<Index>(random, {8, 24, 64});
    p.queries = std::min(p.queries, static_cast<Index>(kDearest / static_cast<double>(p.heads * p.keys * p.dim)));
  }
  return p;
}

TEST(ErrorBound, HoldsOn400RandomShapesAndOptions) {
  Random random(2024);
  for (int i = 0; i < 400 && !HasFailure(); ++i) {
    expect_as_exact_as_plain(random_problem(random), static_cast<std::uint64_t>(i));
  }
}

struct Named {
  const char* name;
  Index batch, heads, kv_heads, queries, keys, dim;
  Pattern pattern;
  bool causal, far_field;
  Layout layout;
  Pooling pooling = Pooling::kMean;
  double mass = 0;
};

constexpr Layout kContiguous = Layout::kContiguous;
constexpr Named kNamed[] = {
    {"one token", 1, 1, 1, 1, 1, 64, Pattern::kFull, true, false, kContiguous},
    {"two tokens, smallest head", 1, 1, 1, 2, 2, 8, Pattern::kHsa, true, false, kContiguous},
    {"largest head", 1, 3, 1, 65, 65, 256, Pattern::kHsa, true, true, kContiguous},
    {"odd head", 1, 2, 2, 65, 65, 37, Pattern::kHsa, true, true, Layout::kPadded},
    {"decode", 2, 6, 2, 1, 300, 64, Pattern::kHsa, true, false, kContiguous},
    {"decode, far field", 2, 6, 2, 1, 700, 64, Pattern::kHsa, true, true, kContiguous},
    {"decode in full", 1, 8, 1, 1, 513, 128, Pattern::kFull, true, false, kContiguous},
    {"chunk", 1, 4, 4, 17, 200, 64, Pattern::kHsa, true, true, kContiguous},
    {"more queries than keys", 1, 2, 1, 90, 40, 64, Pattern::kHsa, true, true, kContiguous},
    {"far more queries than keys, both sides", 1, 2, 1, 200, 100, 24, Pattern::kHsa, false, true, kContiguous},
    {"no keys", 1, 2, 1, 5, 0, 64, Pattern::kFull, false, false, kContiguous},
    {"both sides, ragged", 1, 3, 1, 333, 333, 24, Pattern::kHsa, false, true, kContiguous},
    {"both sides, decode", 1, 3, 1, 1, 301, 24, Pattern::kHsa, false, true, kContiguous},
    {"both sides, full", 1, 6, 2, 70, 131, 24, Pattern::kFull, false, false, kContiguous},
    {"both sides, full, more queries", 1, 2, 2, 131, 70, 24, Pattern::kFull, false, false, kContiguous},
    {"both sides, local", 1, 6, 2, 70, 131, 24, Pattern::kLocal, false, false, kContiguous},
    {"both sides, local, more queries", 1, 2, 2, 131, 70, 24, Pattern::kLocal, false, false, kContiguous},
    {"maxima", 1, 3, 1, 333, 333, 24, Pattern::kHsa, true, true, kContiguous, Pooling::kMax},
    {"maxima, both sides, ragged", 1, 6, 2, 200, 333, 24, Pattern::kHsa, false, true, kContiguous, Pooling::kMax},
    {"maxima, both sides, more queries", 1, 2, 1, 200, 101, 24, Pattern::kHsa, false, true, kContiguous, Pooling::kMax},
    {"mass", 1, 3, 1, 333, 333, 24, Pattern::kHsa, true, true, kContiguous, Pooling::kMean, 0.7},
    {"mass, both sides, ragged", 1, 6, 2, 200, 333, 24, Pattern::kHsa, false, true, kContiguous, Pooling::kMean, 0.7},
    {"mass, maxima, both sides", 1, 6, 2, 331, 331, 24, Pattern::kHsa, false, true, kContiguous, Pooling::kMax, 0.5},
    {"both sides, exact blocks", 1, 3, 1, 256, 256, 24, Pattern::kHsa, false, false, kContiguous},
    {"projection layout", 2, 6, 2, 100, 100, 80, Pattern::kHsa, true, true, Layout::kTokenMajor},
    {"local", 1, 4, 2, 300, 300, 64, Pattern::kLocal, true, false, kContiguous},
    {"strided", 1, 3, 1, 333, 333, 24, Pattern::kSparseTransformer, true, false, kContiguous},
    {"strided, both sides, ragged", 1, 6, 2, 200, 333, 24, Pattern::kSparseTransformer, false, false, kContiguous},
    {"fixed", 1, 3, 1, 331, 331, 80, Pattern::kSparseTransformerFixed, true, false, kContiguous},
    {"fixed, both sides, more queries", 1, 8, 1, 200, 101, 24, Pattern::kSparseTransformerFixed, false, false,
     kContiguous},
    {"longformer", 2, 6, 2, 200, 200, 64, Pattern::kLongformer, true, false, Layout::kTokenMajor},
    {"longformer, both sides, ragged", 1, 6, 2, 333, 333, 24, Pattern::kLongformer, false, false, kContiguous},
    {"bigbird, decode", 2, 6, 2, 1, 300, 128, Pattern::kBigBird, true, false, kContiguous},
    {"bigbird, both sides, ragged", 1, 3, 1, 333, 333, 24, Pattern::kBigBird, false, false, kContiguous},
    {"long", 1, 1, 1, 700, 700, 64, Pattern::kHsa, true, true, kContiguous},
    {"long, full", 1, 1, 1, 700, 700, 64, Pattern::kFull, true, false, kContiguous},
};

TEST(ErrorBound, HoldsOnNamedCases) {
  for (const Named& c : kNamed) {
    Problem p{.name = c.name,
              .batch = c.batch,
              .heads = c.heads,
              .kv_heads = c.kv_heads,
              .queries = c.queries,
              .keys = c.keys,
              .dim = c.dim,
              .layout = c.layout};
    p.options = {c.pattern, c.causal, {}};
    p.options.hsa = {.window = 16,
                     .top_k = 32,
                     .candidates = 64,
                     .block = 8,
                     .sinks = 8,
                     .top_nodes = 8,
                     .beam = 4,
                     .dense_until = 0,
                     .far_field = c.far_field,
                     .pooling = c.pooling,
                     .mass = c.mass,
                     .min_top_k = 8};
    expect_as_exact_as_plain(p, 1);
  }
}

// Not causal, a block may be listed by one position of a quad and lie in the near run of the next: it is one key, and
// must get one gradient, also where it is the last of a panel of 8 blocks.
TEST(ErrorBound, HoldsWhereAListMeetsTheNearRunOfANeighbour) {
  for (const Index group : {1, 3}) {
    for (Index top_k = 16; top_k <= 80; top_k += 8) {
      Problem p{.name = "neighbours", .heads = group, .queries = 150, .keys = 150, .dim = 8};
      p.options = {Pattern::kHsa, false, {}};
      p.options.hsa = {.window = 14, .top_k = top_k, .candidates = 0, .block = 8, .sinks = 8, .dense_until = 0};
      expect_as_exact_as_plain(p, 1);
    }
  }
}

// Keys and values of few different numbers: most maxima are shared by several tokens, and the first gets the gradient.
TEST(ErrorBound, HoldsWhereMaximaAreShared) {
  for (const Index group : {1, 3}) {
    for (const bool causal : {true, false}) {
      Problem p{.name = "ties", .heads = group, .queries = 150, .keys = 190, .dim = 24};
      p.options = {Pattern::kHsa, causal, {}};
      p.options.hsa = {.window = 8, .top_k = 16, .candidates = 0, .block = 4, .sinks = 4, .dense_until = 0};
      p.options.hsa.far_field = true;
      p.options.hsa.pooling = Pooling::kMax;
      Tensors<float> in = random_tensors(p, 6);
      for (testing::Tensor<float>* x : {&in.k, &in.v}) {
        x->for_each([](float& e, Index, Index, Index, Index) { e = std::round(e); });
      }
      expect_as_exact_as_plain(p, in);
    }
  }
}

TEST(ErrorBound, HsaIsFullWhereTopKCoversThePast) {
  for (const bool causal : {true, false}) {
    for (const bool far_field : {true, false}) {
      Problem p{.name = "covered", .heads = 3, .queries = 250, .keys = 250, .dim = 64};
      p.options = {Pattern::kHsa, causal, {}};
      p.options.hsa = {.window = 16, .top_k = 256, .candidates = 256, .dense_until = 0, .far_field = far_field};
      SCOPED_TRACE(describe(p));
      const Tensors<float> in = random_tensors(p, 4);
      const Solution<float> hsa = solve(p, in, plan_of(p, in));
      p.options.pattern = Pattern::kFull;
      const Solution<float> full = solve(p, in, plan_of(p, in));
      EXPECT_LE(max_error(hsa.o, full.o), 1e-6);
      EXPECT_LE(max_error(hsa.dq, full.dq), 1e-5);
      EXPECT_LE(max_error(hsa.dk, full.dk), 1e-5);
      EXPECT_LE(max_error(hsa.dv, full.dv), 1e-5);
    }
  }
}

TEST(ErrorBound, OnePassEqualsPlanThenAttend) {
  Random random(9);
  for (int i = 0; i < 40; ++i) {
    Problem p = random_problem(random);
    SCOPED_TRACE(describe(p));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const Plan plan = plan_of(p, in);
    const Solution<float> two = solve_forward(p, in, plan);
    for (const bool keep : {false, true}) {
      std::vector<std::int32_t> lists(plan.blocks.size(), -7);
      const Solution<float> one = solve_in_one_pass(p, in, keep ? lists.data() : nullptr);
      EXPECT_EQ(max_error(one.o, two.o), 0);
      EXPECT_TRUE(testing::same_bits(one.lse.data(), two.lse.data(), std::ssize(two.lse)));
      if (keep) {
        EXPECT_EQ(lists, plan.blocks);
      }
    }
  }
}

TEST(ErrorBound, TheKernelAskedForRuns) {
  Problem p{.name = "which kernel", .queries = 4, .keys = 4};
  AttentionInputs in = random_tensors(p, 1).inputs(p);
  in.q.dtype = in.k.dtype = in.v.dtype = DType::kBFloat16;  // the type that all instruction sets have a way for
  EXPECT_STREQ(chosen_kernel(in), name_of(selected_isa()));
}

}  // namespace
}  // namespace hsattn
