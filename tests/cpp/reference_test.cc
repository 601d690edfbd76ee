// The reference itself: cases computed by hand, plain softmax, and finite differences in double.
#include "hsattn/kernels/reference/reference.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Random;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensors<double> zeros(const Problem& p) {
  Tensors<double> in{
      Tensor<double>(p.batch, p.heads, p.queries, p.dim), Tensor<double>(p.batch, p.kv_heads, p.keys, p.dim),
      Tensor<double>(p.batch, p.kv_heads, p.keys, p.dim), Tensor<double>(p.batch, p.heads, p.queries, p.dim)};
  for (Tensor<double>* x : {&in.q, &in.k, &in.v, &in.dout}) std::fill(x->data.begin(), x->data.end(), 0.0);
  return in;
}

TEST(Reference, TwoTokensByHand) {
  // Scores are log(1) and log(3): weights 1/4 and 3/4, lse = log(4).
  Problem p{
      .name = "two tokens", .queries = 1, .keys = 2, .dim = 8, .options = {Pattern::kFull, true, {}}, .scale = 2.0};
  Tensors<double> in = zeros(p);
  in.q.row(0, 0, 0)[0] = 0.5;
  in.k.row(0, 0, 1)[0] = std::log(3.0);
  in.v.row(0, 0, 0)[3] = 4;
  in.v.row(0, 0, 1)[3] = 8;
  in.dout.row(0, 0, 0)[3] = 1;
  const Solution<double> out = solve(p, in, plan_of(p, in));
  EXPECT_NEAR(out.o.row(0, 0, 0)[3], 7, 1e-14);
  EXPECT_NEAR(out.o.row(0, 0, 0)[0], 0, 1e-14);
  EXPECT_NEAR(out.lse[0], std::log(4.0), 1e-14);
  EXPECT_NEAR(out.dv.row(0, 0, 0)[3], 0.25, 1e-14);
  EXPECT_NEAR(out.dv.row(0, 0, 1)[3], 0.75, 1e-14);
  // ds = p (dout.v - dout.o): 1/4 (4 - 7) and 3/4 (8 - 7).
  EXPECT_NEAR(out.dk.row(0, 0, 0)[0], 2 * -0.75 * 0.5, 1e-14);
  EXPECT_NEAR(out.dk.row(0, 0, 1)[0], 2 * 0.75 * 0.5, 1e-14);
  EXPECT_NEAR(out.dq.row(0, 0, 0)[0], 2 * 0.75 * std::log(3.0), 1e-14);
}

TEST(Reference, FarNodeWeighsAsManyTokensByHand) {
  // Position 7 of 8, blocks of 2, window 0: near [6, 8), past blocks 0, 1, 2. Sink block 0 and one kept block; the
  // third is a far node. All scores are 0: every token weighs 1/8, and so do the two tokens of the far node together
  // twice.
  Problem p{.name = "far", .queries = 1, .keys = 8, .dim = 8};
  p.options.hsa = {
      .window = 0, .top_k = 2, .candidates = 2, .block = 2, .sinks = 2, .dense_until = 0, .far_field = true};
  Tensors<double> in = zeros(p);
  for (Index t = 0; t < 8; ++t) in.v.row(0, 0, t)[0] = static_cast<double>(t * t);
  in.k.row(0, 0, 4)[1] = in.k.row(0, 0, 5)[1] = 1;  // block 2 wins, by a query that is too small to move the softmax
  in.q.row(0, 0, 0)[1] = 1e-12;
  in.dout.row(0, 0, 0)[0] = 1;
  const Plan plan = plan_of(p, in);
  ASSERT_EQ(plan.shape.slots(), 2);
  EXPECT_EQ(plan.blocks, (std::vector<std::int32_t>{0, 2}));
  const Solution<double> out = solve(p, in, plan);
  EXPECT_NEAR(out.o.row(0, 0, 0)[0], (0 + 1 + 4 + 9 + 16 + 25 + 36 + 49) / 8.0, 1e-9);
  EXPECT_NEAR(out.lse[0], std::log(8.0), 1e-9);
  for (Index t = 0; t < 8; ++t) EXPECT_NEAR(out.dv.row(0, 0, t)[0], 1 / 8.0, 1e-9) << t;
}

TEST(Reference, PyramidByHand) {
  // Five tokens in blocks of 2: means 1, 5, 8 (one token); then 3 and 8; then (4 * 3 + 1 * 8) / 5.
  reference::Matrix tokens(5, 1);
  tokens.data = {0, 2, 4, 6, 8};
  const reference::Pyramid pyramid = reference::make_pyramid(tokens, 2, Pooling::kMean);
  ASSERT_EQ(pyramid.levels.size(), 3U);
  EXPECT_EQ(pyramid.levels[0].data, (std::vector<double>{1, 5, 8}));
  EXPECT_EQ(pyramid.levels[1].data, (std::vector<double>{3, 8}));
  EXPECT_DOUBLE_EQ(pyramid.levels[2].data[0], 4);
  EXPECT_EQ(pyramid.count(2, 0), 5);
  EXPECT_EQ(pyramid.count(1, 1), 1);

  reference::Pyramid gradient = reference::zero_pyramid(5, 1, 2);
  gradient.levels[2].row(0)[0] = 10;
  gradient.levels[0].row(2)[0] = 1;
  reference::spread_gradient(gradient, pyramid);
  const std::vector<double> right{2, 2, 2, 2, 3};
  for (Index t = 0; t < 5; ++t) EXPECT_NEAR(gradient.tokens.data[t], right[t], 1e-14);
}

TEST(Reference, PyramidOfMaximaByHand) {
  // Seven tokens in blocks of 2: maxima 4, 9, 9, 1 (one token); then 9 and 9; then 9. Equal ones: the first wins.
  reference::Matrix tokens(7, 1);
  tokens.data = {4, 4, -2, 9, 9, 3, 1};
  const reference::Pyramid pyramid = reference::make_pyramid(tokens, 2, Pooling::kMax);
  ASSERT_EQ(pyramid.levels.size(), 3U);
  EXPECT_EQ(pyramid.levels[0].data, (std::vector<double>{4, 9, 9, 1}));
  EXPECT_EQ(pyramid.levels[1].data, (std::vector<double>{9, 9}));
  EXPECT_EQ(pyramid.levels[2].data, (std::vector<double>{9}));

  reference::Pyramid gradient = reference::zero_pyramid(7, 1, 2);
  gradient.levels[2].row(0)[0] = 10;
  gradient.levels[1].row(1)[0] = 5;
  gradient.levels[0].row(0)[0] = 2;
  gradient.levels[0].row(3)[0] = 1;
  reference::spread_gradient(gradient, pyramid);
  EXPECT_EQ(gradient.tokens.data, (std::vector<double>{2, 0, 0, 10, 5, 0, 1}));
}

// Softmax attention over all that causality allows, written independently of plans.
Solution<double> naive(const Problem& p, const Tensors<double>& in) {
  Solution<double> out{Tensor<double>(p.batch, p.heads, p.queries, p.dim), {}, {}, {}, {}};
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.heads; ++h) {
      for (Index i = 0; i < p.queries; ++i) {
        double sum = 0;
        std::vector<double> o(static_cast<std::size_t>(p.dim), 0.0);
        const Index end = p.options.causal ? std::max<Index>(0, i + p.keys - p.queries + 1) : p.keys;
        for (Index t = 0; t < end; ++t) {
          double score = 0;
          for (Index c = 0; c < p.dim; ++c) score += in.q.row(b, h, i)[c] * in.k.row(b, h / p.group(), t)[c];
          const double weight = std::exp(score * p.scale_used());
          sum += weight;
          for (Index c = 0; c < p.dim; ++c) o[c] += weight * in.v.row(b, h / p.group(), t)[c];
        }
        for (Index c = 0; c < p.dim; ++c) out.o.row(b, h, i)[c] = sum == 0 ? 0 : o[c] / sum;
        out.lse.push_back(sum == 0 ? -kInfinity : std::log(sum));
      }
    }
  }
  return out;
}

TEST(Reference, FullIsPlainSoftmax) {
  Random random(3);
  for (int i = 0; i < 30; ++i) {
    Problem p{.name = "full", .batch = 2, .heads = 6, .kv_heads = 2, .dim = 8};
    p.options = {Pattern::kFull, i % 2 == 0, {}};
    p.queries = uniform(random, 1, 40);
    p.keys = uniform(random, 0, 40);
    SCOPED_TRACE(describe(p));
    const Tensors<double> in = in_double(testing::random_tensors(p, static_cast<std::uint64_t>(i)));
    const Solution<double> right = naive(p, in), found = solve_forward(p, in, plan_of(p, in));
    EXPECT_LT(max_error(found.o, right.o), 1e-12);
    for (std::size_t j = 0; j < right.lse.size(); ++j) {
      if (right.lse[j] != found.lse[j]) {
        EXPECT_NEAR(found.lse[j], right.lse[j], 1e-12);
      }
    }
  }
}

TEST(Reference, FarFieldIsExactWhereKeysAreEqual) {
  // With equal keys a mean loses nothing: attention with far nodes is full attention. Nor does a maximum, of the
  // scores; values must be equal, too, as the largest is not the mean.
  Random random(5);
  for (int i = 0; i < 20; ++i) {
    Problem p{.name = "equal keys", .heads = 3, .queries = 150, .keys = 150, .dim = 8};
    p.options = testing::searching_options(random, i % 2 == 0);
    p.options.hsa.far_field = true;
    p.options.hsa.node = 0;
    p.options.hsa.pooling = i % 4 < 2 ? Pooling::kMean : Pooling::kMax;
    Tensors<double> in = in_double(testing::random_tensors(p, static_cast<std::uint64_t>(i)));
    in.k.for_each([&](double& x, Index, Index, Index, Index c) { x = in.k.row(0, 0, 0)[c]; });
    if (p.options.hsa.pooling == Pooling::kMax) {
      in.v.for_each([&](double& x, Index, Index, Index, Index c) { x = in.v.row(0, 0, 0)[c]; });
    }
    const Solution<double> found = solve_forward(p, in, plan_of(p, in));
    p.options.pattern = Pattern::kFull;
    const Solution<double> right = naive(p, in);
    EXPECT_LT(max_error(found.o, right.o), 1e-12) << describe(p);
    for (std::size_t j = 0; j < right.lse.size(); ++j) EXPECT_NEAR(found.lse[j], right.lse[j], 1e-12) << describe(p);
  }
}

struct DifferenceCase {
  const char* name;
  Pattern pattern;
  bool causal, far_field;
  Index group, queries, keys;
  Pooling pooling = Pooling::kMean;
};

constexpr DifferenceCase kDifferences[] = {
    {"full", Pattern::kFull, true, false, 1, 9, 9},
    {"full, both sides, group of 3", Pattern::kFull, false, false, 3, 5, 9},
    {"local", Pattern::kLocal, true, false, 3, 20, 20},
    {"hsa", Pattern::kHsa, true, false, 1, 40, 40},
    {"hsa, group of 3", Pattern::kHsa, true, false, 3, 30, 40},
    {"hsa, far field", Pattern::kHsa, true, true, 1, 40, 40},
    {"hsa, far field, group of 3", Pattern::kHsa, true, true, 3, 40, 40},
    {"hsa, both sides", Pattern::kHsa, false, false, 3, 30, 31},
    {"hsa, both sides, far field, ragged end", Pattern::kHsa, false, true, 3, 30, 31},
    {"hsa, both sides, more queries than keys", Pattern::kHsa, false, true, 1, 40, 31},
    {"local, both sides", Pattern::kLocal, false, false, 3, 15, 21},
    {"more queries than keys", Pattern::kHsa, true, true, 1, 40, 30},
    {"strided", Pattern::kSparseTransformer, true, false, 3, 40, 40},
    {"fixed, both sides", Pattern::kSparseTransformerFixed, false, false, 1, 30, 31},
    {"longformer, both sides", Pattern::kLongformer, false, false, 3, 40, 40},
    {"bigbird", Pattern::kBigBird, true, false, 1, 30, 40},
    {"maxima", Pattern::kHsa, true, true, 1, 40, 40, Pooling::kMax},
    {"maxima, group of 3", Pattern::kHsa, true, true, 3, 30, 40, Pooling::kMax},
    {"maxima, both sides, ragged end", Pattern::kHsa, false, true, 3, 30, 31, Pooling::kMax},
};

double loss(const Problem& p, const Tensors<double>& in, const Plan& plan) {
  const Solution<double> out = solve_forward(p, in, plan);
  double sum = 0;
  out.o.for_each([&](double x, Index b, Index h, Index t, Index c) { sum += x * in.dout.row(b, h, t)[c]; });
  return sum;
}

// Central differences: the error is of order step^2, and rounding 1e-16 / step.
void expect_gradient(const Problem& p, Tensors<double>& in, const Plan& plan, Tensor<double> Tensors<double>::* input,
                     const Tensor<double>& gradient) {
  constexpr double kStep = 1e-5, kTolerance = 1e-8;
  Index bad = 0;
  double largest = 0;
  (in.*input).for_each([&](double& x, Index b, Index h, Index t, Index c) {
    const double before = x;
    x = before + kStep;
    const double above = loss(p, in, plan);
    x = before - kStep;
    const double below = loss(p, in, plan);
    x = before;
    const double right = (above - below) / (2 * kStep), found = gradient.row(b, h, t)[c];
    bad += !(std::abs(right - found) <= kTolerance);
    largest = std::max(largest, std::abs(found));
  });
  EXPECT_EQ(bad, 0);
  EXPECT_GT(largest, 1e-3);  // or the comparison would say nothing
}

TEST(Reference, GradientsEqualFiniteDifferences) {
  for (const DifferenceCase& c : kDifferences) {
    SCOPED_TRACE(c.name);
    Problem p{.name = c.name, .heads = c.group, .queries = c.queries, .keys = c.keys, .dim = 8};
    p.options = {c.pattern, c.causal, {}};
    p.options.hsa = {.window = 2,
                     .top_k = 4,
                     .candidates = 8,
                     .block = 2,
                     .sinks = 2,
                     .top_nodes = 4,
                     .beam = 2,
                     .dense_until = 0,
                     .far_field = c.far_field,
                     .pooling = c.pooling};
    Tensors<double> in = in_double(testing::random_tensors(p, 11));
    const Plan plan = plan_of(p, in);
    const Solution<double> out = solve(p, in, plan);
    expect_gradient(p, in, plan, &Tensors<double>::q, out.dq);
    expect_gradient(p, in, plan, &Tensors<double>::k, out.dk);
    expect_gradient(p, in, plan, &Tensors<double>::v, out.dv);
  }
}

TEST(Reference, Float64RunsHere) {
  Problem p{.name = "float64", .queries = 4, .keys = 4, .dim = 8};
  const Tensors<double> in = in_double(testing::random_tensors(p, 1));
  EXPECT_STREQ(chosen_kernel(in.inputs(p)), "reference");
}

}  // namespace
}  // namespace hsattn
