// Linear attention with both feature maps: the reference by hand and by finite differences, kernels against it.
#include "support/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/plain.h"

namespace hsattn {
namespace {

using testing::Layout;
using testing::LinearProblem;
using testing::Random;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

LinearProblem problem_of(const char* name, Index heads, Index kv_heads, Index queries, Index keys, Index dim,
                         bool causal, Index features) {
  LinearProblem p;
  p.shape = {.name = name, .heads = heads, .kv_heads = kv_heads, .queries = queries, .keys = keys, .dim = dim};
  p.shape.options.causal = causal;
  p.features = features;
  return p;
}

TEST(Linear, TwoTokensByHand) {
  // phi(q) . phi(k) with q = 0 in all but the first of 8 dimensions: 7 (1 * 1) + phi(q_0) phi(k_0).
  const LinearProblem p = problem_of("two tokens", 1, 1, 1, 2, 8, true, 0);
  Tensors<double> in = in_double(random_tensors(p.shape, 1));
  for (Tensor<double>* x : {&in.q, &in.k, &in.v, &in.dout}) std::fill(x->data.begin(), x->data.end(), 0.0);
  in.q.row(0, 0, 0)[0] = 1;              // phi = 2
  in.k.row(0, 0, 0)[0] = std::log(0.5);  // phi = 1/2: weight 8
  in.k.row(0, 0, 1)[0] = 7.5;            // phi = 8.5: weight 24
  in.v.row(0, 0, 0)[3] = 4;
  in.v.row(0, 0, 1)[3] = 8;
  in.dout.row(0, 0, 0)[3] = 1;
  const Solution<double> out = solve_linear(p, in);
  EXPECT_NEAR(out.o.row(0, 0, 0)[3], 7, 1e-14);
  EXPECT_NEAR(out.dv.row(0, 0, 0)[3], 0.25, 1e-14);
  EXPECT_NEAR(out.dv.row(0, 0, 1)[3], 0.75, 1e-14);
  // dw = (v - o) / 32: -3/32 and 1/32; dq_0 = dw_0 / 2 + dw_1 8.5, dk_0 = dw phi(q_0) phi'(k_0).
  EXPECT_NEAR(out.dq.row(0, 0, 0)[0], -1.5 / 32 + 8.5 / 32, 1e-14);
  EXPECT_NEAR(out.dk.row(0, 0, 0)[0], -3.0 / 32 * 2 * 0.5, 1e-14);
  EXPECT_NEAR(out.dk.row(0, 0, 1)[0], 1.0 / 32 * 2, 1e-14);
}

TEST(Linear, PerformerWeighsAsTheProductOfItsFeatures) {
  LinearProblem p = problem_of("performer", 1, 1, 1, 3, 8, true, 12);
  const Tensors<double> in = in_double(random_tensors(p.shape, 3));
  const Solution<double> out = solve_linear(p, in);
  const FeatureMap map = p.options().map;
  const auto phi = [&](const double* x, Index f) {
    double product = 0, square = 0;
    for (Index d = 0; d < 8; ++d) {
      const double y = x[d] * std::sqrt(p.shape.scale_used());
      product += map.projection[f * 8 + d] * y;
      square += y * y;
    }
    return std::exp(product - square / 2);
  };
  std::vector<double> o(8);
  double sum = 0;
  for (Index j = 0; j < 3; ++j) {
    double weight = 0;
    for (Index f = 0; f < 12; ++f) weight += phi(in.q.row(0, 0, 0), f) * phi(in.k.row(0, 0, j), f);
    sum += weight;
    for (Index d = 0; d < 8; ++d) o[d] += weight * in.v.row(0, 0, j)[d];
  }
  for (Index d = 0; d < 8; ++d) EXPECT_NEAR(out.o.row(0, 0, 0)[d], o[d] / sum, 1e-13);
}

TEST(Linear, ManyFeaturesOfPerformerApproachSoftmax) {
  const auto error = [](Index features) {
    LinearProblem p = problem_of("softmax", 1, 1, 40, 40, 16, true, features);
    p.shape.scale = 0.1;  // with larger scores a few features dominate, and the root of the number comes late
    const Tensors<double> in = in_double(random_tensors(p.shape, 3));
    testing::Problem full = p.shape;
    full.options.pattern = Pattern::kFull;
    const Solution<double> exact = solve(full, in, plan_of(full, in));
    const Solution<double> found = solve_linear(p, in);
    double sum = 0;
    found.o.for_each(
        [&](const double& x, Index b, Index h, Index t, Index c) { sum += std::pow(x - exact.o.row(b, h, t)[c], 2); });
    return std::sqrt(sum / (40 * 16));
  };
  const double few = error(64), many = error(16384);
  EXPECT_LT(many, 0.05);
  EXPECT_LT(many, few / 4);  // 16 on average: the error falls with the root of the number
}

// Central differences of the loss sum(dout o) against the gradients, in double.
TEST(Linear, GradientsAreFiniteDifferences) {
  Random random(4);
  for (const Index features : {0, 13}) {
    for (const bool causal : {true, false}) {
      const LinearProblem p = problem_of("differences", 4, 2, 6, 7, 8, causal, features);
      SCOPED_TRACE(describe(p));
      Tensors<double> in = in_double(random_tensors(p.shape, 9));
      const Solution<double> out = solve_linear(p, in);
      const auto loss = [&] {
        const Solution<double> moved = solve_linear(p, in);
        double sum = 0;
        moved.o.for_each(
            [&](const double& x, Index b, Index h, Index t, Index c) { sum += x * in.dout.row(b, h, t)[c]; });
        return sum;
      };
      for (const auto& [x, dx] : {std::pair{&in.q, &out.dq}, {&in.k, &out.dk}, {&in.v, &out.dv}}) {
        for (int i = 0; i < 25; ++i) {
          const auto at = static_cast<std::size_t>(uniform(random, 0, std::ssize(x->data) - 1));
          const double before = x->data[at], step = 1e-5;
          x->data[at] = before + step;
          const double above = loss();
          x->data[at] = before - step;
          const double below = loss();
          x->data[at] = before;
          EXPECT_NEAR(dx->data[at], (above - below) / (2 * step), 1e-8);
        }
      }
    }
  }
}

// performer's gradients are large where its weights are uneven.
void expect_within_bound(const char* what, const Tensor<float>& found, const Tensor<float>& plain,
                         const Tensor<double>& exact) {
  EXPECT_LE(max_error(found, exact), testing::error_allowed(plain, exact)) << what;
}

void expect_as_exact_as_plain(const LinearProblem& p, std::uint64_t seed) {
  SCOPED_TRACE(describe(p) + concat(", seed ", seed));
  const Tensors<float> in = random_tensors(p.shape, seed);
  const Solution<float> found = solve_linear(p, in), plain = plain_linear(p, in);
  const Solution<double> exact = solve_linear(p, in_double(in));
  expect_within_bound("o", found.o, plain.o, exact.o);
  expect_within_bound("dq", found.dq, plain.dq, exact.dq);
  expect_within_bound("dk", found.dk, plain.dk, exact.dk);
  expect_within_bound("dv", found.dv, plain.dv, exact.dv);
}

LinearProblem random_problem(Random& random, Index longest) {
  LinearProblem p;
  p.shape.name = "random";
  p.shape.options.causal = uniform(random, 0, 2) > 0;
  p.shape.dim = testing::one_of<Index>(random, {8, 24, 64, 80, 128, uniform(random, 8, 100)});
  p.shape.kv_heads = uniform(random, 1, 2);
  p.shape.heads = p.shape.kv_heads * testing::one_of<Index>(random, {1, 1, 3});
  p.shape.batch = uniform(random, 1, 2);
  p.shape.layout = testing::one_of(random, {Layout::kContiguous, Layout::kTokenMajor, Layout::kPadded});
  p.shape.keys = uniform(random, 1, longest);
  p.shape.queries = uniform(random, 0, 1) == 0 ? p.shape.keys : uniform(random, 1, longest);
  p.features = testing::one_of<Index>(random, {0, 0, 16, uniform(random, 1, 70)});
  return p;
}

TEST(Linear, IsAsExactAsPlainOn120RandomShapes) {
  Random random(11);
  for (int i = 0; i < 120 && !HasFailure(); ++i)
    expect_as_exact_as_plain(random_problem(random, 200), static_cast<std::uint64_t>(i));
}

TEST(Linear, IsAsExactAsPlainOnNamedShapes) {
  for (const Index features : {0, 128}) {
    expect_as_exact_as_plain(problem_of("one token", 1, 1, 1, 1, 64, true, features), 1);
    expect_as_exact_as_plain(problem_of("one chunk", 2, 1, 64, 64, 64, true, features), 1);
    expect_as_exact_as_plain(problem_of("chunk and a token", 8, 1, 65, 65, 64, true, features), 1);
    expect_as_exact_as_plain(problem_of("last query alone", 3, 1, 1, 200, 80, true, features), 1);
    expect_as_exact_as_plain(problem_of("more queries than keys", 1, 1, 90, 70, 24, true, features), 1);
    expect_as_exact_as_plain(problem_of("both sides", 3, 1, 130, 70, 128, false, features), 1);
    expect_as_exact_as_plain(problem_of("long", 1, 1, 700, 700, 64, true, features), 1);
  }
}

TEST(Linear, RowsThatSeeNothingAreZero) {
  LinearProblem p = problem_of("blind", 1, 1, 5, 3, 8, true, 0);
  const Solution<float> out = solve_linear(p, random_tensors(p.shape, 1));
  for (Index i = 0; i < 2; ++i) {
    for (Index d = 0; d < 8; ++d) {
      EXPECT_EQ(out.o.row(0, 0, i)[d], 0);
      EXPECT_EQ(out.dq.row(0, 0, i)[d], 0);
    }
  }
  EXPECT_NE(out.o.row(0, 0, 2)[0], 0);
  p = problem_of("no keys", 1, 1, 5, 0, 8, false, 0);
  const Solution<float> none = solve_linear(p, random_tensors(p.shape, 1));
  EXPECT_EQ(largest_of(none.o), 0);
  EXPECT_EQ(largest_of(none.dq), 0);
}

// Outputs are means of values, whatever the size of queries and keys: no denominator is 0, negative or infinite.
TEST(Linear, ExtremeQueriesAndKeysGiveMeansOfValues) {
  for (const Index features : {0, 64}) {
    for (const float size : {0.0F, 1e-30F, 30.0F, 1e3F, 1e4F}) {
      LinearProblem p = problem_of("extreme", 1, 1, 100, 100, 16, true, features);
      SCOPED_TRACE(describe(p) + concat(", size ", size));
      Tensors<float> in = random_tensors(p.shape, 2);
      for (Tensor<float>* x : {&in.q, &in.k}) {
        for (float& number : x->data) number = testing::as_stored(number * size);
      }
      const Solution<float> out = solve_linear(p, in);
      const double largest = largest_of(in.v);
      out.o.for_each([&](const float& x, Index, Index, Index, Index) { EXPECT_LE(std::abs(x), largest * 1.01); });
      for (const Tensor<float>* x : {&out.dq, &out.dk, &out.dv}) {
        x->for_each([](const float& g, Index, Index, Index, Index) { EXPECT_TRUE(std::isfinite(g)); });
      }
      const Solution<double> exact = solve_linear(p, in_double(in));
      if (size <= 30) {
        EXPECT_LE(max_error(out.o, exact.o), 2e-4 + testing::rounding_floor(largest));
      }
    }
  }
}

TEST(Linear, FeaturesAreOrthogonalNormalAndAFunctionOfTheSeed) {
  constexpr Index kDim = 16, kCount = 40;
  const std::vector<float> w = draw_features(kCount, kDim, 7);
  EXPECT_EQ(w, draw_features(kCount, kDim, 7));
  EXPECT_NE(w, draw_features(kCount, kDim, 8));
  const auto product = [&](Index i, Index j) {
    double sum = 0;
    for (Index d = 0; d < kDim; ++d) sum += static_cast<double>(w[i * kDim + d]) * w[j * kDim + d];
    return sum;
  };
  for (Index i = 0; i < kCount; ++i) {
    for (Index j = i / kDim * kDim; j < i; ++j) EXPECT_NEAR(product(i, j), 0, 1e-4) << i << ", " << j;
  }
  const std::vector<float> many = draw_features(4000, kDim, 1);
  double mean = 0, square = 0;
  for (const float x : many) mean += x, square += static_cast<double>(x) * x;
  EXPECT_NEAR(mean / static_cast<double>(many.size()), 0, 0.02);
  EXPECT_NEAR(square / static_cast<double>(many.size()), 1, 0.02);
}

}  // namespace
}  // namespace hsattn
