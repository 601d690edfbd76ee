// Huge scores and odd scales: still right.
#include <gtest/gtest.h>

#include <cmath>

#include "support/plain.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::as_stored;
using testing::Problem;
using testing::rounding_floor;
using testing::smallest_budgets;
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

double lse_error(const Solution<float>& found, const Solution<double>& exact) {
  double worst = 0;
  for (std::size_t i = 0; i < exact.lse.size(); ++i) {
    const double error = std::abs(found.lse[i] - exact.lse[i]);
    worst = error <= worst ? worst : error;  // NaN comes through
  }
  return worst;
}

TEST(Extremes, LargeScoresStayRight) {
  for (const ScoreCase& c : kScores) {
    for (const Index group : {1, 3}) {
      Problem p{.name = c.name, .heads = group, .queries = 120, .keys = 120, .dim = 64};
      p.options = {c.pattern, true, {}};
      p.options.hsa = smallest_budgets(c.far_field);
      SCOPED_TRACE(describe(p));
      Tensors<float> in = random_tensors(p, 3);
      const auto unit = static_cast<float>(c.score / 24);  // q.k of 64 normal values: 8, at most about 24
      in.k.for_each([&](float& x, Index, Index, Index, Index) { x = as_stored(x * unit); });
      if (std::isinf(as_stored(static_cast<float>(c.score)))) continue;  // float16 ends at 65504
      p.scale = 1;
      const Plan plan = plan_of(p, in);
      ASSERT_EQ(covers_each_token_once(plan), "");
      const Solution<float> found = solve_forward(p, in, plan), plain = plain_solution(p, in, plan);
      const Solution<double> exact = solve_forward(p, in_double(in), plan);
      EXPECT_LE(max_error(found.o, exact.o), 2 * max_error(plain.o, exact.o) + rounding_floor(largest_of(exact.o)));
      EXPECT_LE(lse_error(found, exact), 2 * lse_error(plain, exact) + 1e-5);
    }
  }
}

// One key wins by so much that its weight is 1 and all others 0: o is its value, and dv that of a copy.
TEST(Extremes, WinnerTakesAll) {
  for (const float size : {1e4F, 1e30F, -1e4F, -1e30F}) {
    for (const Pattern pattern : {Pattern::kFull, Pattern::kHsa}) {
      Problem p{.name = "winner", .heads = 2, .queries = 90, .keys = 90, .dim = 24, .scale = 1.0};
      p.options = {pattern, true, {}};
      p.options.hsa = smallest_budgets(false);
      SCOPED_TRACE(describe(p) + concat(", score ", size));
      Tensors<float> in = random_tensors(p, 3);
      in.q.for_each([](float& x, Index, Index, Index, Index c) { x = c == 0; });
      // Scores fall from token to token if size < 0, and rise if size > 0: the first or the newest token wins.
      in.k.for_each([&](float& x, Index, Index, Index t, Index c) {
        x = c == 0 ? as_stored(size * static_cast<float>(t) / 64) : 0;
      });
      if (std::isinf(as_stored(size))) continue;  // float16 ends at 65504
      const Plan plan = plan_of(p, in);
      const Solution<float> out = solve(p, in, plan);
      const double largest = std::abs(size) * 90 / 64;  // of q.k; its rounding is what dq may show
      const bool half = testing::stored_type() != DType::kFloat32;
      const double o_floor = half ? rounding_floor(largest_of(in.v)) : 2e-6;
      const double dv_floor = half ? 2 * rounding_floor(largest_of(in.dout)) : 1e-3;  // a sum of two rows
      for (Index h = 0; h < p.heads; ++h) {
        for (Index i = 0; i < p.queries; ++i) {
          const Index winner = size > 0 ? i : 0;
          ASSERT_NEAR(out.lse[h * p.queries + i], in.k.row(0, 0, winner)[0], largest * 1e-6) << "query " << i;
          for (Index c = 0; c < p.dim; ++c) {
            ASSERT_NEAR(out.o.row(0, h, i)[c], in.v.row(0, 0, winner)[c], o_floor) << "query " << i;
            ASSERT_NEAR(out.dq.row(0, h, i)[c], 0, largest * 1e-5) << "query " << i;
          }
        }
      }
      for (Index c = 0; c < p.dim; ++c) {
        const Index t = 17;
        float right = size > 0 ? in.dout.row(0, 0, t)[c] + in.dout.row(0, 1, t)[c] : 0;
        ASSERT_NEAR(out.dv.row(0, 0, t)[c], right, dv_floor);  // the lse of 1e4 is rounded to steps of 1e-3
        ASSERT_NEAR(out.dk.row(0, 0, t)[c], 0, 1e-4);
      }
    }
  }
}

void expect_as_exact_as_plain(const Problem& p, const Tensors<float>& in) {
  const Plan plan = plan_of(p, in);
  ASSERT_EQ(covers_each_token_once(plan), "");
  const Solution<float> found = solve(p, in, plan), plain = plain_solution(p, in, plan);
  const Solution<double> exact = solve(p, in_double(in), plan);
  const auto expect = [](const auto& a, const auto& b, const auto& right) {
    EXPECT_LE(max_error(a, right), 2 * max_error(b, right) + rounding_floor(largest_of(right)));
  };
  expect(found.o, plain.o, exact.o);
  expect(found.dq, plain.dq, exact.dq);
  expect(found.dk, plain.dk, exact.dk);
  expect(found.dv, plain.dv, exact.dv);
}

// Scores near 1e4 with close rivals: the gradients, too, are as exact as those of plain float32.
TEST(Extremes, GradientsAtScoresOf1e4) {
  for (const double sign : {1.0, -1.0}) {
    Problem p{.name = "gradients", .heads = 3, .queries = 60, .keys = 60, .dim = 64, .scale = 1.0};
    p.options.pattern = Pattern::kFull;
    Tensors<float> in = random_tensors(p, 3);
    in.q.for_each([&](float& x, Index, Index, Index, Index c) { x = c == 0 ? static_cast<float>(100 * sign) : x / 4; });
    in.k.for_each([&](float& x, Index, Index, Index, Index c) { x = c == 0 ? 100 : x; });
    expect_as_exact_as_plain(p, in);
  }
}

TEST(Extremes, ScaleOfZeroAndBelow) {
  for (const double scale : {0.0, -0.125, 1e-3, 8.0}) {
    Problem p{.name = "scale", .queries = 90, .keys = 90, .dim = 64, .scale = scale};
    p.options.hsa = smallest_budgets();
    SCOPED_TRACE(concat("scale ", scale));
    const Tensors<float> in = random_tensors(p, 3);
    expect_as_exact_as_plain(p, in);
  }
}

}  // namespace
}  // namespace hsattn
