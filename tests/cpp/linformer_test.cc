// Linformer: its reference by tensor algebra and finite differences, kernels against it, and what it promises.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Layout;
using testing::Problem;
using testing::Random;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct LinformerProblem {
  Problem shape;
  Index rank = 4, segment = 32, longest = 0;

  Index columns() const { return longest > 0 ? longest : shape.keys; }
};

LinformerProblem problem_of(const char* name, Index heads, Index kv_heads, Index queries, Index keys, Index dim,
                            bool causal, Index rank, Index segment) {
  LinformerProblem p;
  p.shape = {.name = name, .heads = heads, .kv_heads = kv_heads, .queries = queries, .keys = keys, .dim = dim};
  p.shape.options.causal = causal;
  p.rank = rank, p.segment = segment;
  return p;
}

std::string describe(const LinformerProblem& problem) {
  const Problem& p = problem.shape;
  return concat(p.name, ": ", p.options.causal ? "causal" : "bidirectional", ", batch ", p.batch, ", heads ", p.heads,
                "/", p.kv_heads, ", queries ", p.queries, ", keys ", p.keys, ", dim ", p.dim, ", layout ",
                static_cast<int>(p.layout), ", rank ", problem.rank, ", segment ", problem.segment, ", longest ",
                problem.columns());
}

// Both projections, about 1 / sqrt(piece).
template <class T>
std::vector<T> projections_of(const LinformerProblem& p) {
  Random random(99);
  const double piece = static_cast<double>(p.shape.options.causal ? p.segment : p.columns());
  std::normal_distribution<float> normal(0, static_cast<float>(1 / std::sqrt(piece)));
  std::vector<T> both(static_cast<std::size_t>(2 * p.rank * p.columns()));
  for (T& x : both) x = static_cast<T>(normal(random));
  return both;
}

template <class T>
LinformerOptions options_of(const LinformerProblem& p, const std::vector<T>& both) {
  return {{both.data(), both.data() + p.rank * p.columns(), p.rank, p.columns()}, p.segment, p.shape.options.causal};
}

template <class T>
struct Result : Solution<T> {
  std::vector<testing::LseOf<T>> dprojections;  // of keys, then of values
};

template <class T>
Result<T> solve(const LinformerProblem& problem, const Tensors<T>& in,
                const std::vector<testing::LseOf<T>>& projections, Executor& executor = serial_executor()) {
  const Problem& p = problem.shape;
  const LinformerOptions options = options_of(problem, projections);
  Result<T> out;
  out.o = out.dq = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  out.dk = out.dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  out.lse.assign(static_cast<std::size_t>(p.batch * p.heads * p.queries), kNan);
  out.dprojections.assign(projections.size(), kNan);
  const AttentionInputs inputs = in.inputs(p);
  linformer_forward(inputs, options, {out.o.view(), out.lse.data()}, executor);
  linformer_backward(inputs, options, {in.dout.view(), as_const(out.o.view()), out.lse.data()},
                     {out.dq.view(), out.dk.view(), out.dv.view()},
                     {out.dprojections.data(), out.dprojections.data() + problem.rank * problem.columns()}, executor);
  for (const Tensor<T>* x : {&out.o, &out.dq, &out.dk, &out.dv})
    check(padding_is_untouched(*x), "something was written between the rows of an output");
  return out;
}

template <class T>
Result<T> solve(const LinformerProblem& p, const Tensors<T>& in, Executor& executor = serial_executor()) {
  return solve(p, in, projections_of<testing::LseOf<T>>(p), executor);
}

// Of floats, in stored_type().
Result<float> solve_stored(const LinformerProblem& p, const Tensors<float>& in,
                           Executor& executor = serial_executor()) {
  Result<float> out;
  with_element_type(testing::stored_type(), [&](auto element) {
    using T = decltype(element);
    const auto stored = [&](const Tensor<float>& x) { return converted<T>(x, p.shape.layout); };
    const auto found = solve<T>(p, {stored(in.q), stored(in.k), stored(in.v), stored(in.dout)},
                                projections_of<testing::LseOf<T>>(p), executor);
    const auto floats = [&](const Tensor<T>& x) { return converted<float>(x, p.shape.layout); };
    out.o = floats(found.o), out.dq = floats(found.dq), out.dk = floats(found.dk), out.dv = floats(found.dv);
    out.lse = {found.lse.begin(), found.lse.end()};
    out.dprojections = {found.dprojections.begin(), found.dprojections.end()};
  });
  return out;
}

TEST(Linformer, OneSegmentIsFullAttention) {
  const LinformerProblem p = problem_of("one segment", 2, 1, 20, 30, 8, true, 3, 30);
  const Tensors<double> in = in_double(random_tensors(p.shape, 1));
  Problem full = p.shape;
  full.options.pattern = Pattern::kFull;
  const Solution<double> right = testing::solve(full, in, plan_of(full, in));
  const Result<double> found = solve(p, in);
  EXPECT_LE(max_error(found.o, right.o), 1e-13);
  EXPECT_LE(max_error(found.dq, right.dq), 1e-13);
  EXPECT_LE(max_error(found.dk, right.dk), 1e-13);
  EXPECT_LE(max_error(found.dv, right.dv), 1e-13);
  for (const double x : found.dprojections) EXPECT_EQ(x, 0);
}

// The projection picks tokens: row r of every piece is its r-th token.
TEST(Linformer, ProjectionsThatPickTokensAttendThem) {
  for (const bool causal : {true, false}) {
    const LinformerProblem p = problem_of("picked", 1, 1, 10, 10, 8, causal, 2, 4);
    const Tensors<double> in = in_double(random_tensors(p.shape, 1));
    std::vector<double> both(40);
    for (Index t = 0; t < 10; ++t) {
      const Index row = causal ? t % 4 : t;
      if (row < 2) both[row * 10 + t] = both[20 + row * 10 + t] = 1;
    }
    const Result<double> found = solve(p, in, both);
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
    LinformerProblem p = problem_of("differences", 4, 2, 9, 11, 8, causal, 3, 4);
    p.longest = 13;
    SCOPED_TRACE(describe(p));
    Tensors<double> in = in_double(random_tensors(p.shape, 9));
    std::vector<double> projections = projections_of<double>(p);
    Result<double> out = solve(p, in, projections);
    const auto loss = [&] {
      const Result<double> moved = solve(p, in, projections);
      double sum = 0;
      moved.o.for_each(
          [&](const double& x, Index b, Index h, Index t, Index c) { sum += x * in.dout.row(b, h, t)[c]; });
      return sum;
    };
    for (const auto& [x, dx] : {std::pair{&in.q.data, &out.dq.data},
                                {&in.k.data, &out.dk.data},
                                {&in.v.data, &out.dv.data},
                                {&projections, &out.dprojections}}) {
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

// Twice the error of plain full attention of as many keys is what the softmax itself costs; projections add their own
// rounding, a sum over a piece.
void expect_exact(const LinformerProblem& p, std::uint64_t seed) {
  SCOPED_TRACE(describe(p) + concat(", seed ", seed));
  const Tensors<float> in = random_tensors(p.shape, seed);
  const Result<float> found = solve_stored(p, in);
  const Result<double> exact = solve(p, in_double(in));
  const auto expect_close = [](const char* what, const Tensor<float>& a, const Tensor<double>& b) {
    const double largest = std::max(1.0, largest_of(b));
    EXPECT_LE(max_error(a, b), 2 * std::max(testing::rounding_floor(largest), 1e-5 * largest)) << what;
  };
  expect_close("o", found.o, exact.o);
  expect_close("dq", found.dq, exact.dq);
  expect_close("dk", found.dk, exact.dk);
  expect_close("dv", found.dv, exact.dv);
  for (std::size_t i = 0; i < exact.lse.size(); ++i) {
    if (found.lse[i] == exact.lse[i]) continue;  // -inf
    EXPECT_NEAR(found.lse[i], exact.lse[i], 2e-5) << "lse";
  }
  double largest = 1;
  for (const double x : exact.dprojections) largest = std::max(largest, std::abs(x));
  const double unit = testing::rounding_floor(1);  // of o, which gradients of scores use
  for (std::size_t i = 0; i < exact.dprojections.size(); ++i)
    ASSERT_NEAR(found.dprojections[i], exact.dprojections[i], 4 * unit * largest) << "projections";
}

TEST(Linformer, IsExactOn60RandomShapes) {
  Random random(12);
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    LinformerProblem p = problem_of("random", 1, 1, 1, 1, 8, uniform(random, 0, 2) > 0, uniform(random, 1, 9),
                                    testing::one_of<Index>(random, {5, 16, 32, 64, 100}));
    p.shape.dim = testing::one_of<Index>(random, {8, 24, 64, 80, uniform(random, 8, 100)});
    p.shape.kv_heads = uniform(random, 1, 2);
    p.shape.heads = p.shape.kv_heads * testing::one_of<Index>(random, {1, 1, 3});
    p.shape.batch = uniform(random, 1, 2);
    p.shape.layout = testing::one_of(random, {Layout::kContiguous, Layout::kTokenMajor, Layout::kPadded});
    p.shape.keys = uniform(random, 1, 130);
    p.shape.queries = uniform(random, 0, 1) == 0 ? p.shape.keys : uniform(random, 1, 130);
    p.longest = p.shape.keys + uniform(random, 0, 20);
    expect_exact(p, static_cast<std::uint64_t>(i));
  }
}

Index moved(const Tensor<float>& a, const Tensor<float>& b, Index begin, Index end) {
  Index count = 0;
  a.for_each([&](const float& x, Index i, Index h, Index t, Index c) {
    if (t >= begin && t < end) count += !(x == b.row(i, h, t)[c]);
  });
  return count;
}

// Outputs before t that move with the tokens from t on, and gradients of a loss before t.
Index leaks_at(const LinformerProblem& p, Index t, std::uint64_t seed) {
  Tensors<float> in = random_tensors(p.shape, seed);
  const Tensors<float> other = random_tensors(p.shape, seed + 1000);
  in.dout.for_each([&](float& x, Index, Index, Index i, Index) { x = i < t ? x : 0; });
  Tensors<float> changed = in;
  for (const auto member : {&Tensors<float>::q, &Tensors<float>::k, &Tensors<float>::v}) {
    (changed.*member).for_each([&](float& x, Index b, Index h, Index i, Index c) {
      if (i >= t) x = testing::as_stored(3 * (other.*member).row(b, h, i)[c]);
    });
  }
  const Result<float> a = solve_stored(p, in), b = solve_stored(p, changed);
  Index count = moved(a.o, b.o, 0, t) + moved(a.dq, b.dq, 0, t) + moved(a.dk, b.dk, 0, t) + moved(a.dv, b.dv, 0, t);
  for (const Tensor<float>* x : {&a.dq, &a.dk, &a.dv})
    x->for_each([&](const float& y, Index, Index, Index i, Index) { count += i >= t && y != 0; });
  return count;
}

TEST(Linformer, NothingBeforeATokenMovesWithIt) {
  Random random(77);
  for (int i = 0; i < 30; ++i) {
    LinformerProblem p = problem_of("leak", 2, 1, 0, 0, 24, true, 3, testing::one_of<Index>(random, {16, 32, 50}));
    p.shape.keys = p.shape.queries = uniform(random, 60, 140);
    const Index t = uniform(random, 1, p.shape.keys - 1);
    SCOPED_TRACE(describe(p) + concat(", seed ", i, ", t ", t));
    EXPECT_EQ(leaks_at(p, t, static_cast<std::uint64_t>(i)), 0);
    p.shape.options.causal = false;
    EXPECT_GT(leaks_at(p, t, static_cast<std::uint64_t>(i)), 0);  // or the test would not catch one
  }
}

TEST(Linformer, WhatARowDoesNotSeeCannotHurtIt) {
  Random random(5);
  for (int i = 0; i < 30; ++i) {
    LinformerProblem p = problem_of("unseen", 2, 1, 0, 0, 24, true, 3, testing::one_of<Index>(random, {16, 32, 50}));
    p.shape.keys = p.shape.queries = uniform(random, 60, 140);
    const Index t = uniform(random, 1, p.shape.keys - 1);
    const Tensors<float> in = random_tensors(p.shape, static_cast<std::uint64_t>(i));
    const Result<float> right = solve_stored(p, in);
    SCOPED_TRACE(describe(p) + concat(", t ", t));
    for (const auto member : {&Tensors<float>::k, &Tensors<float>::v}) {
      Tensors<float> bad = in;
      (bad.*member).row(0, 0, t)[3] = kNan;
      const Result<float> found = solve_stored(p, bad);
      EXPECT_EQ(moved(found.o, right.o, 0, t) + moved(found.dq, right.dq, 0, t), 0);
      EXPECT_TRUE(std::isnan(found.o.row(0, 0, t)[3]));
    }
    for (const auto member : {&Tensors<float>::q, &Tensors<float>::dout}) {
      Tensors<float> bad = in;
      (bad.*member).row(0, 0, t)[3] = kNan;
      const Result<float> found = solve_stored(p, bad);
      EXPECT_EQ(moved(found.dk, right.dk, t + 1, p.shape.keys) + moved(found.dv, right.dv, t + 1, p.shape.keys), 0);
    }
  }
}

TEST(Linformer, ThreadsLeaveNoTrace) {
  const auto two = make_thread_pool(2), three = make_thread_pool(3);
  for (const bool causal : {true, false}) {
    LinformerProblem p = problem_of("threads", 6, 3, 190, 200, 24, causal, 5, 48);
    p.shape.batch = 2;
    const Tensors<float> in = random_tensors(p.shape, 1);
    const Result<float> right = solve_stored(p, in);
    for (Executor* executor : {two.get(), three.get(), two.get()}) {
      const Result<float> found = solve_stored(p, in, *executor);
      EXPECT_TRUE(same_bits(found, right));
      EXPECT_EQ(found.dprojections, right.dprojections);
    }
  }
}

TEST(Linformer, SequencesAreAlone) {
  LinformerProblem p = problem_of("sequences", 4, 2, 150, 150, 24, true, 3, 16);
  const Tensors<float> in = random_tensors(p.shape, 1);
  const std::vector<float> projections = projections_of<float>(p);
  const LinformerOptions options = options_of(p, projections);
  const std::vector<Sequence> sequences = {{0, {0, 70}, {0, 70}}, {0, {75, 90}, {71, 120}}};
  const AttentionInputs inputs = in.inputs(p.shape);
  Tensor<float> o(1, 4, 150, 24), dq(1, 4, 150, 24), dk(1, 2, 150, 24), dv(1, 2, 150, 24);
  std::vector<float> lse(600), dprojections(projections.size()), sum(projections.size());
  linformer_forward(inputs, sequences, options, {o.view(), lse.data()});
  linformer_backward(inputs, sequences, options, {in.dout.view(), as_const(o.view()), lse.data()},
                     {dq.view(), dk.view(), dv.view()}, {dprojections.data(), dprojections.data() + 450});
  for (const Sequence& s : sequences) {
    LinformerProblem alone = p;
    alone.longest = 150;
    alone.shape.queries = s.queries.size(), alone.shape.keys = s.keys.size();
    const Tensors<float> own{tokens_of(in.q, s.queries.begin, s.queries.end), tokens_of(in.k, s.keys.begin, s.keys.end),
                             tokens_of(in.v, s.keys.begin, s.keys.end),
                             tokens_of(in.dout, s.queries.begin, s.queries.end)};
    const Result<float> right = solve(alone, own, projections);
    EXPECT_TRUE(same_bits(tokens_of(o, s.queries.begin, s.queries.end), right.o));
    EXPECT_TRUE(same_bits(tokens_of(dq, s.queries.begin, s.queries.end), right.dq));
    EXPECT_TRUE(same_bits(tokens_of(dk, s.keys.begin, s.keys.end), right.dk));
    EXPECT_TRUE(same_bits(tokens_of(dv, s.keys.begin, s.keys.end), right.dv));
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += right.dprojections[i];
  }
  for (std::size_t i = 0; i < sum.size(); ++i) EXPECT_NEAR(dprojections[i], sum[i], 1e-4);
  EXPECT_EQ(o.row(0, 0, 72)[0], 0);
  EXPECT_EQ(lse[72], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(dk.row(0, 0, 70)[0], 0);
}

TEST(Linformer, WrongCallsAreRefused) {
  LinformerProblem p = problem_of("call", 2, 2, 6, 6, 8, true, 2, 4);
  const Tensors<float> in = random_tensors(p.shape, 1);
  Tensor<float> o(1, 2, 6, 8);
  const std::vector<float> projections = projections_of<float>(p);
  const auto error_of = [&](auto spoil) {
    LinformerOptions options = options_of(p, projections);
    spoil(options);
    try {
      linformer_forward(in.inputs(p.shape), options, {o.view()});
    } catch (const InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string("no InvalidArgument");
  };
  EXPECT_EQ(error_of([](LinformerOptions& x) { x.projections.longest = 5; }),
            "linformer_forward: a sequence has 6 keys; the projections are made for at most 5");
  EXPECT_EQ(error_of([](LinformerOptions& x) { x.projections.rank = 0; }),
            "linformer_forward: rank is 0; 1 to 65536 is right");
  EXPECT_EQ(error_of([](LinformerOptions& x) { x.segment = 0; }),
            "linformer_forward: segment is 0; at least 1 is right");
  EXPECT_EQ(error_of([](LinformerOptions& x) { x.projections.values = nullptr; }),
            "linformer_forward: a projection has no memory");
}

}  // namespace
}  // namespace hsattn
