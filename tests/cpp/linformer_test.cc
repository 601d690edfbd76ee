// Linformer: its reference by tensor algebra and finite differences, kernels against it.
#include "support/linformer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/plain.h"

namespace hsattn {
namespace {

using testing::Layout;
using testing::linformer_problem;
using testing::linformer_projections;
using testing::LinformerProblem;
using testing::LinformerSolution;
using testing::Problem;
using testing::Random;
using testing::Solution;
using testing::solve_linformer;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

TEST(Linformer, OneSegmentIsFullAttention) {
  const LinformerProblem p = linformer_problem("one segment", 2, 1, 20, 30, 8, true, 3, 30);
  const Tensors<double> in = in_double(random_tensors(p.shape, 1));
  Problem full = p.shape;
  full.options.pattern = Pattern::kFull;
  const Solution<double> right = testing::solve(full, in, plan_of(full, in));
  const LinformerSolution<double> found = solve_linformer(p, in);
  EXPECT_LE(max_error(found.o, right.o), 1e-13);
  EXPECT_LE(max_error(found.dq, right.dq), 1e-13);
  EXPECT_LE(max_error(found.dk, right.dk), 1e-13);
  EXPECT_LE(max_error(found.dv, right.dv), 1e-13);
  EXPECT_EQ(largest_of(found.dprojections), 0);
}

// The projection picks tokens: row r of every piece is its r-th token.
TEST(Linformer, ProjectionsThatPickTokensAttendThem) {
  for (const bool causal : {true, false}) {
    const LinformerProblem p = linformer_problem("picked", 1, 1, 10, 10, 8, causal, 2, 4);
    const Tensors<double> in = in_double(random_tensors(p.shape, 1));
    Tensor<double> both(1, 2, 2, 10);
    std::fill(both.data.begin(), both.data.end(), 0.0);
    for (Index t = 0; t < 10; ++t) {
      const Index row = causal ? t % 4 : t;
      if (row < 2) both.row(0, 0, row)[t] = both.row(0, 1, row)[t] = 1;
    }
    const LinformerSolution<double> found = solve_linformer(p, in, both);
    for (Index i = 0; i < 10; ++i) {
      std::vector<double> o(8);
      double sum = 0;
      for (Index j = 0; j < 10; ++j) {
        const bool seen = causal ? (j <= i && (j / 4 == i / 4 || j % 4 < 2)) : j < 2;
        double score = 0;
        for (Index d = 0; d < 8; ++d) score += in.q.row(0, 0, i)[d] * in.k.row(0, 0, j)[d];
        const double weight = seen ? std::exp(score * p.shape.scale_used()) : 0;
        sum += weight;
        for (Index d = 0; d < 8; ++d) o[d] += weight * in.v.row(0, 0, j)[d];
      }
      for (Index d = 0; d < 8; ++d) EXPECT_NEAR(found.o.row(0, 0, i)[d], o[d] / sum, 1e-13);
      EXPECT_NEAR(found.lse[i], std::log(sum), 1e-13);
    }
  }
}

TEST(Linformer, GradientsAreFiniteDifferences) {
  Random random(4);
  for (const bool causal : {true, false}) {
    LinformerProblem p = linformer_problem("differences", 4, 2, 9, 11, 8, causal, 3, 4);
    p.longest = 13;
    SCOPED_TRACE(describe(p));
    Tensors<double> in = in_double(random_tensors(p.shape, 9));
    Tensor<double> projections = linformer_projections<double>(p);
    LinformerSolution<double> out = solve_linformer(p, in, projections);
    const auto loss = [&] {
      const LinformerSolution<double> moved = solve_linformer(p, in, projections);
      double sum = 0;
      moved.o.for_each(
          [&](const double& x, Index b, Index h, Index t, Index c) { sum += x * in.dout.row(b, h, t)[c]; });
      return sum;
    };
    for (const auto& [x, dx] : {std::pair{&in.q.data, &out.dq.data},
                                {&in.k.data, &out.dk.data},
                                {&in.v.data, &out.dv.data},
                                {&projections.data, &out.dprojections.data}}) {
      for (int i = 0; i < 30; ++i) {
        const auto at = static_cast<std::size_t>(uniform(random, 0, std::ssize(*x) - 1));
        const double before = (*x)[at], step = 1e-5;
        (*x)[at] = before + step;
        const double above = loss();
        (*x)[at] = before - step;
        const double below = loss();
        (*x)[at] = before;
        EXPECT_NEAR((*dx)[at], (above - below) / (2 * step), 1e-8);
      }
    }
  }
}

void expect_within_bound(const char* what, const Tensor<float>& found, const Tensor<float>& plain,
                         const Tensor<double>& exact) {
  EXPECT_LE(max_error(found, exact), testing::error_allowed(plain, exact)) << what;
}

void expect_as_exact_as_plain(const LinformerProblem& p, std::uint64_t seed) {
  SCOPED_TRACE(describe(p) + concat(", seed ", seed));
  const Tensors<float> in = random_tensors(p.shape, seed);
  const LinformerSolution<float> found = solve_linformer(p, in), plain = plain_linformer(p, in);
  const LinformerSolution<double> exact = solve_linformer(p, in_double(in));
  expect_within_bound("o", found.o, plain.o, exact.o);
  expect_within_bound("dq", found.dq, plain.dq, exact.dq);
  expect_within_bound("dk", found.dk, plain.dk, exact.dk);
  expect_within_bound("dv", found.dv, plain.dv, exact.dv);
  expect_within_bound("projections", found.dprojections, plain.dprojections, exact.dprojections);
  for (std::size_t i = 0; i < exact.lse.size(); ++i) {
    if (found.lse[i] == exact.lse[i]) continue;  // -inf
    ASSERT_NEAR(found.lse[i], exact.lse[i], 2 * std::abs(plain.lse[i] - exact.lse[i]) + 1e-5) << "lse of row " << i;
  }
}

LinformerProblem random_problem(Random& random) {
  LinformerProblem p = linformer_problem("random", 1, 1, 1, 1, 8, uniform(random, 0, 2) > 0, uniform(random, 1, 9),
                                         testing::one_of<Index>(random, {5, 16, 32, 64, 100}));
  p.shape.dim = testing::one_of<Index>(random, {8, 24, 64, 80, 128, uniform(random, 8, 100)});
  p.shape.kv_heads = uniform(random, 1, 2);
  p.shape.heads = p.shape.kv_heads * testing::one_of<Index>(random, {1, 1, 3, 8});
  p.shape.batch = uniform(random, 1, 2);
  p.shape.layout = testing::one_of(random, {Layout::kContiguous, Layout::kTokenMajor, Layout::kPadded});
  p.shape.keys = uniform(random, 1, 130);
  p.shape.queries = uniform(random, 0, 1) == 0 ? p.shape.keys : uniform(random, 1, 130);
  p.longest = p.shape.keys + uniform(random, 0, 20);
  return p;
}

TEST(Linformer, IsAsExactAsPlainOn60RandomShapes) {
  Random random(12);
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    expect_as_exact_as_plain(random_problem(random), static_cast<std::uint64_t>(i));
  }
}

TEST(Linformer, IsAsExactAsPlainOnNamedShapes) {
  for (const bool causal : {true, false}) {
    expect_as_exact_as_plain(linformer_problem("one token", 1, 1, 1, 1, 64, causal, 4, 32), 1);
    expect_as_exact_as_plain(linformer_problem("one segment", 2, 1, 32, 32, 64, causal, 4, 32), 1);
    expect_as_exact_as_plain(linformer_problem("segment and a token", 8, 1, 33, 33, 64, causal, 4, 32), 1);
    expect_as_exact_as_plain(linformer_problem("last query alone", 3, 1, 1, 200, 80, causal, 8, 48), 1);
    expect_as_exact_as_plain(linformer_problem("more queries than keys", 1, 1, 90, 70, 24, causal, 3, 16), 1);
    expect_as_exact_as_plain(linformer_problem("segments of one token", 1, 1, 40, 40, 24, causal, 2, 1), 1);
    expect_as_exact_as_plain(linformer_problem("more rows than tokens", 1, 1, 30, 30, 24, causal, 40, 7), 1);
    expect_as_exact_as_plain(linformer_problem("long", 1, 1, 500, 500, 64, causal, 8, 64), 1);
  }
}

// Outputs are means of what is seen, whatever the size of scores: no sum is 0 or infinite.
TEST(Linformer, HugeScoresGiveMeansOfValues) {
  for (const bool causal : {true, false}) {
    for (const float size : {0.0F, 1e-30F, 30.0F, 1e4F}) {
      const LinformerProblem p = linformer_problem("huge", 1, 1, 100, 100, 16, causal, 4, 32);
      SCOPED_TRACE(describe(p) + concat(", size ", size));
      Tensors<float> in = random_tensors(p.shape, 2);
      for (Tensor<float>* x : {&in.q, &in.k}) {
        for (float& number : x->data) number = testing::as_stored(number * size);
      }
      const LinformerSolution<float> out = solve_linformer(p, in);
      const double largest = 100 * largest_of(in.v);  // a projected row is a sum of a piece
      out.o.for_each([&](const float& x, Index, Index, Index, Index) { EXPECT_LE(std::abs(x), largest); });
      for (const Tensor<float>* x : {&out.dq, &out.dk, &out.dv, &out.dprojections}) {
        x->for_each([](const float& g, Index, Index, Index, Index) { EXPECT_TRUE(std::isfinite(g)); });
      }
    }
  }
}

}  // namespace
}  // namespace hsattn
