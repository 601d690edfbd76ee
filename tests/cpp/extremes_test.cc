// Huge scores and odd scales: still right.
#include <gtest/gtest.h>

#include <cmath>

#include "support/plain.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Solution;
using testing::Tensors;

struct ScoreCase {
  const char* name;
  double score;  // the largest, about
  Pattern pattern;
  bool far_field;
};

constexpr ScoreCase kScores[] = {
    {"1e4", 1e4, Pattern::kFull, false},          {"1e4, hsa", 1e4, Pattern::kHsa, false},
    {"1e4, far field", 1e4, Pattern::kHsa, true}, {"1e30", 1e30, Pattern::kFull, false},
    {"1e30, hsa", 1e30, Pattern::kHsa, false},    {"1e30, far field", 1e30, Pattern::kHsa, true},
    {"1e-30", 1e-30, Pattern::kHsa, true},
};

TEST(Extremes, LargeScoresStayRight) {
  for (const ScoreCase& c : kScores) {
    for (const Index group : {1, 3}) {
      Problem p{.name = c.name, .heads = group, .queries = 120, .keys = 120, .dim = 64};
      p.options = {c.pattern, true, {}};
      p.options.hsa = {.window = 8,
                       .top_k = 16,
                       .candidates = 32,
                       .block = 4,
                       .sinks = 4,
                       .top_nodes = 8,
                       .beam = 4,
                       .dense_until = 0,
                       .far_field = c.far_field};
      SCOPED_TRACE(describe(p));
      // Scores are whole multiples of a power of two, exact in float32, so that every order of summation agrees.
      Tensors<float> in = random_tensors(p, 3);
      const auto unit = static_cast<float>(std::exp2(std::round(std::log2(c.score / 300))));
      in.q.for_each([](float& x, Index, Index, Index, Index) { x = std::round(3 * x); });
      in.k.for_each([&](float& x, Index, Index, Index, Index) { x = std::round(3 * x) * unit; });
      p.scale = 1;
      const Plan plan = plan_of(p, in);
      ASSERT_EQ(covers_each_token_once(plan), "");
      const Solution<float> found = solve_forward(p, in, plan), plain = plain_float32(p, in, plan);
      const Solution<double> exact = solve_forward(p, in_double(in), plan);
      EXPECT_LE(max_error(found.o, exact.o), 2 * max_error(plain.o, exact.o) + 1e-5);
      for (std::size_t i = 0; i < exact.lse.size(); ++i) {
        ASSERT_NEAR(found.lse[i], exact.lse[i], 1e-5 + 1e-6 * std::abs(exact.lse[i])) << "lse of row " << i;
      }
    }
  }
}

// One key wins by so much that its weight is 1 and all others 0: o is its value, and the gradients are those of a copy.
TEST(Extremes, WinnerTakesAll) {
  for (const float size : {1e4F, 1e30F, -1e4F, -1e30F}) {
    for (const Pattern pattern : {Pattern::kFull, Pattern::kHsa}) {
      Problem p{.name = "winner", .heads = 2, .queries = 90, .keys = 90, .dim = 24, .scale = 1.0};
      p.options = {pattern, true, {}};
      p.options.hsa = {.window = 8,
                       .top_k = 16,
                       .candidates = 32,
                       .block = 4,
                       .sinks = 4,
                       .top_nodes = 8,
                       .beam = 4,
                       .dense_until = 0};
      SCOPED_TRACE(describe(p) + concat(", score ", size));
      Tensors<float> in = random_tensors(p, 3);
      in.q.for_each([](float& x, Index, Index, Index, Index c) { x = c == 0; });
      // Scores fall from token to token if size < 0, and rise if size > 0: the first or the newest token wins.
      in.k.for_each(
          [&](float& x, Index, Index, Index t, Index c) { x = c == 0 ? size * static_cast<float>(t) / 64 : 0; });
      const Plan plan = plan_of(p, in);
      const Solution<float> out = solve(p, in, plan);
      for (Index h = 0; h < p.heads; ++h) {
        for (Index i = 0; i < p.queries; ++i) {
          const Index winner = size > 0 ? i : 0;
          ASSERT_TRUE(testing::same_bits(out.o.row(0, h, i), in.v.row(0, 0, winner), p.dim)) << "query " << i;
          ASSERT_FLOAT_EQ(out.lse[h * p.queries + i], in.k.row(0, 0, winner)[0]) << "query " << i;
          for (Index c = 0; c < p.dim; ++c) ASSERT_EQ(out.dq.row(0, h, i)[c], 0) << "query " << i;
        }
      }
      for (Index c = 0; c < p.dim; ++c) {
        const float right = in.dout.row(0, 0, 17)[c] + in.dout.row(0, 1, 17)[c];
        if (size > 0) {
          ASSERT_EQ(out.dv.row(0, 0, 17)[c], right);
        }
        ASSERT_EQ(out.dk.row(0, 0, 17)[c], 0);
      }
    }
  }
}

// Scores near 1e4 with close rivals: the gradients, too, are as exact as those of plain float32.
TEST(Extremes, GradientsAtScoresOf1e4) {
  for (const double sign : {1.0, -1.0}) {
    Problem p{.name = "gradients", .heads = 3, .queries = 60, .keys = 60, .dim = 64, .scale = 1.0};
    p.options.pattern = Pattern::kFull;
    Tensors<float> in = random_tensors(p, 3);
    for (testing::Tensor<float>* x : {&in.q, &in.k}) {
      x->for_each([&](float& y, Index, Index, Index, Index c) { y = c == 0 ? 100 : std::round(8 * y) / 32; });
    }
    in.q.for_each([&](float& x, Index, Index, Index, Index c) { x = c == 0 ? static_cast<float>(100 * sign) : x; });
    const Plan plan = plan_of(p, in);
    const Solution<float> found = solve(p, in, plan), plain = plain_float32(p, in, plan);
    const Solution<double> exact = solve(p, in_double(in), plan);
    EXPECT_LE(max_error(found.o, exact.o), 2 * max_error(plain.o, exact.o) + 1e-5);
    EXPECT_LE(max_error(found.dv, exact.dv), 2 * max_error(plain.dv, exact.dv) + 2e-3);  // lse of 1e4: steps of 1e-3
    EXPECT_LE(max_error(found.dq, exact.dq), 2 * max_error(plain.dq, exact.dq) + 0.2);   // the same, times k of 100
    EXPECT_LE(max_error(found.dk, exact.dk), 2 * max_error(plain.dk, exact.dk) + 0.2);
  }
}

TEST(Extremes, ScaleOfZeroAndBelow) {
  for (const double scale : {0.0, -0.125, 1e-3, 8.0}) {
    Problem p{.name = "scale", .queries = 90, .keys = 90, .dim = 64, .scale = scale};
    p.options.hsa = {.window = 8,
                     .top_k = 16,
                     .candidates = 32,
                     .block = 4,
                     .sinks = 4,
                     .top_nodes = 8,
                     .beam = 4,
                     .dense_until = 0,
                     .far_field = true};
    SCOPED_TRACE(concat("scale ", scale));
    const Tensors<float> in = random_tensors(p, 3);
    const Plan plan = plan_of(p, in);
    ASSERT_EQ(covers_each_token_once(plan), "");
    const Solution<float> found = solve(p, in, plan), plain = plain_float32(p, in, plan);
    const Solution<double> exact = solve(p, in_double(in), plan);
    EXPECT_LE(max_error(found.o, exact.o), 2 * max_error(plain.o, exact.o) + 1e-5);
    EXPECT_LE(max_error(found.dq, exact.dq), 2 * max_error(plain.dq, exact.dq) + 1e-5);
    EXPECT_LE(max_error(found.dk, exact.dk), 2 * max_error(plain.dk, exact.dk) + 1e-5);
    EXPECT_LE(max_error(found.dv, exact.dv), 2 * max_error(plain.dv, exact.dv) + 1e-5);
  }
}

}  // namespace
}  // namespace hsattn
