// What linformer promises besides its numbers: nothing leaks, threads and what a row does not see leave no trace,
// sequences are alone, wrong calls are refused.
#include <gtest/gtest.h>

#include <cmath>

#include "support/linformer.h"

namespace hsattn {
namespace {

using testing::linformer_options;
using testing::linformer_problem;
using testing::linformer_projections;
using testing::LinformerProblem;
using testing::LinformerSolution;
using testing::Random;
using testing::solve_linformer;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

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
  const LinformerSolution<float> a = solve_linformer(p, in), b = solve_linformer(p, changed);
  Index count = count_of_moved(a.o, b.o, 0, t) + count_of_moved(a.dq, b.dq, 0, t) + count_of_moved(a.dk, b.dk, 0, t) +
                count_of_moved(a.dv, b.dv, 0, t);
  for (const Tensor<float>* x : {&a.dq, &a.dk, &a.dv})
    x->for_each([&](const float& y, Index, Index, Index i, Index) { count += i >= t && y != 0; });
  return count;
}

TEST(LinformerPromises, NothingBeforeATokenMovesWithIt) {
  Random random(77);
  for (int i = 0; i < 30; ++i) {
    LinformerProblem p =
        linformer_problem("leak", 2, 1, 0, 0, 24, true, 3, testing::one_of<Index>(random, {16, 32, 50}));
    p.shape.keys = p.shape.queries = uniform(random, 60, 140);
    const Index t = uniform(random, 1, p.shape.keys - 1);
    SCOPED_TRACE(describe(p) + concat(", seed ", i, ", t ", t));
    EXPECT_EQ(leaks_at(p, t, static_cast<std::uint64_t>(i)), 0);
    p.shape.options.causal = false;
    EXPECT_GT(leaks_at(p, t, static_cast<std::uint64_t>(i)), 0);  // or the test would not catch one
  }
}

TEST(LinformerPromises, WhatARowDoesNotSeeCannotHurtIt) {
  Random random(5);
  for (int i = 0; i < 30; ++i) {
    LinformerProblem p =
        linformer_problem("unseen", 2, 1, 0, 0, 24, true, 3, testing::one_of<Index>(random, {16, 32, 50}));
    p.shape.keys = p.shape.queries = uniform(random, 60, 140);
    const Index t = uniform(random, 1, p.shape.keys - 1);
    const Tensors<float> in = random_tensors(p.shape, static_cast<std::uint64_t>(i));
    const LinformerSolution<float> right = solve_linformer(p, in);
    SCOPED_TRACE(describe(p) + concat(", t ", t));
    for (const auto member : {&Tensors<float>::k, &Tensors<float>::v}) {
      Tensors<float> bad = in;
      (bad.*member).row(0, 0, t)[3] = kNan;
      const LinformerSolution<float> found = solve_linformer(p, bad);
      EXPECT_EQ(count_of_moved(found.o, right.o, 0, t) + count_of_moved(found.dq, right.dq, 0, t), 0);
      EXPECT_TRUE(std::isnan(found.o.row(0, 0, t)[3]));
    }
    for (const auto member : {&Tensors<float>::q, &Tensors<float>::dout}) {
      Tensors<float> bad = in;
      (bad.*member).row(0, 0, t)[3] = kNan;
      const LinformerSolution<float> found = solve_linformer(p, bad);
      EXPECT_EQ(count_of_moved(found.dk, right.dk, t + 1, p.shape.keys) +
                    count_of_moved(found.dv, right.dv, t + 1, p.shape.keys),
                0);
    }
  }
}

TEST(LinformerPromises, ThreadsLeaveNoTrace) {
  const auto two = make_thread_pool(2), three = make_thread_pool(3);
  for (const bool causal : {true, false}) {
    LinformerProblem p = linformer_problem("threads", 6, 3, 190, 200, 24, causal, 5, 48);
    p.shape.batch = 2;
    const Tensors<float> in = random_tensors(p.shape, 1);
    const LinformerSolution<float> right = solve_linformer(p, in);
    for (Executor* executor : {two.get(), three.get(), two.get()}) {
      const LinformerSolution<float> found = solve_linformer(p, in, *executor);
      EXPECT_TRUE(same_bits(found, right));
      EXPECT_TRUE(same_bits(found.dprojections, right.dprojections));
    }
  }
}

// Columns of the projections behind the last key, and in causal form those of the last segment, belong to no piece.
TEST(LinformerPromises, UnusedColumnsOfProjectionsAreNotRead) {
  for (const bool causal : {true, false}) {
    LinformerProblem p = linformer_problem("columns", 2, 1, 70, 70, 24, causal, 3, 32);
    p.longest = 90;
    SCOPED_TRACE(describe(p));
    const Tensors<float> in = random_tensors(p.shape, 1);
    Tensor<float> projections = linformer_projections<float>(p);
    const LinformerSolution<float> right = solve_linformer(p, in, projections);
    const Index unused = causal ? 64 : 70;
    const auto spoil = [&](Index from) {
      projections.for_each([&](float& x, Index, Index, Index, Index column) { x = column >= from ? kNan : x; });
    };
    spoil(unused);
    const LinformerSolution<float> found = solve_linformer(p, in, projections);
    EXPECT_TRUE(same_bits(found, right));
    EXPECT_TRUE(same_bits(found.dprojections, right.dprojections));
    found.dprojections.for_each(
        [&](const float& x, Index, Index, Index, Index column) { EXPECT_TRUE(column < unused || x == 0); });
    spoil(unused - 1);
    EXPECT_TRUE(std::isnan(solve_linformer(p, in, projections).o.row(0, 0, 69)[0]));
  }
}

// A call with sequences, in float32.
LinformerSolution<float> solve_sequences(const LinformerProblem& p, const Tensors<float>& in,
                                         const Tensor<float>& projections, std::span<const Sequence> sequences) {
  LinformerSolution<float> out;
  out.o = out.dq = Tensor<float>(1, p.shape.heads, in.q.tokens, in.q.dim);
  out.dk = out.dv = Tensor<float>(1, p.shape.kv_heads, in.k.tokens, in.k.dim);
  out.dprojections = Tensor<float>(1, 2, p.rank, projections.dim);
  out.lse.assign(static_cast<std::size_t>(p.shape.heads * in.q.tokens), kNan);
  const LinformerOptions options{
      {projections.row(0, 0, 0), projections.row(0, 1, 0), p.rank, projections.dim}, p.segment, p.shape.options.causal};
  const AttentionInputs inputs = in.inputs(p.shape);
  linformer_forward(inputs, sequences, options, {out.o.view(), out.lse.data()});
  linformer_backward(inputs, sequences, options, {in.dout.view(), as_const(out.o.view()), out.lse.data()},
                     {out.dq.view(), out.dk.view(), out.dv.view()},
                     {out.dprojections.row(0, 0, 0), out.dprojections.row(0, 1, 0)});
  return out;
}

TEST(LinformerPromises, SequencesAreAlone) {
  for (const bool causal : {true, false}) {
    const LinformerProblem p = linformer_problem("sequences", 4, 2, 150, 150, 24, causal, 3, 16);
    SCOPED_TRACE(describe(p));
    Tensors<float> in = random_tensors(p.shape, 1);
    in.q.row(0, 1, 72)[3] = in.dout.row(0, 2, 93)[0] = in.k.row(0, 0, 70)[1] = in.v.row(0, 1, 149)[5] = kNan;
    const Tensor<float> projections = linformer_projections<float>(p);
    const std::vector<Sequence> sequences = {
        {0, {0, 70}, {0, 70}}, {0, {75, 90}, {71, 120}}, {0, {90, 90}, {120, 130}}};
    const LinformerSolution<float> found = solve_sequences(p, in, projections, sequences);
    std::vector<bool> query_used(150), key_used(150);
    Tensor<float> sum(1, 2, p.rank, 150);
    std::fill(sum.data.begin(), sum.data.end(), 0.0F);
    for (const Sequence& s : sequences) {
      const auto [queries, keys] = std::pair{s.queries, s.keys};
      const Tensors<float> own{tokens_of(in.q, queries.begin, queries.end), tokens_of(in.k, keys.begin, keys.end),
                               tokens_of(in.v, keys.begin, keys.end), tokens_of(in.dout, queries.begin, queries.end)};
      const Sequence alone{0, {0, queries.size()}, {0, keys.size()}};
      const LinformerSolution<float> right = solve_sequences(p, own, projections, std::span(&alone, 1));
      EXPECT_TRUE(same_bits(tokens_of(found.o, queries.begin, queries.end), right.o));
      EXPECT_TRUE(same_bits(tokens_of(found.dq, queries.begin, queries.end), right.dq));
      EXPECT_TRUE(same_bits(tokens_of(found.dk, keys.begin, keys.end), right.dk));
      EXPECT_TRUE(same_bits(tokens_of(found.dv, keys.begin, keys.end), right.dv));
      for (std::size_t i = 0; i < sum.data.size(); ++i) sum.data[i] += right.dprojections.data[i];
      std::fill(query_used.begin() + queries.begin, query_used.begin() + queries.end, true);
      std::fill(key_used.begin() + keys.begin, key_used.begin() + keys.end, true);
    }
    EXPECT_LE(max_error(found.dprojections, sum), 1e-4);
    const auto expect_zero = [](const Tensor<float>& x, const std::vector<bool>& used) {
      x.for_each([&](const float& y, Index, Index, Index t, Index) { EXPECT_TRUE(used[t] || y == 0); });
    };
    expect_zero(found.o, query_used);
    expect_zero(found.dq, query_used);
    expect_zero(found.dk, key_used);
    expect_zero(found.dv, key_used);
    EXPECT_EQ(found.lse[72], -std::numeric_limits<float>::infinity());
  }
}

TEST(LinformerPromises, WrongCallsAreRefused) {
  LinformerProblem p = linformer_problem("call", 2, 2, 6, 6, 8, true, 2, 4);
  const Tensors<float> in = random_tensors(p.shape, 1);
  Tensor<float> o(1, 2, 6, 8);
  const Tensor<float> projections = linformer_projections<float>(p);
  const auto error_of = [&](auto spoil) {
    LinformerOptions options = linformer_options(p, projections);
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
            "linformer_forward: segment is 0; 1 to 2^32 is right");
  EXPECT_EQ(error_of([](LinformerOptions& x) { x.segment = std::numeric_limits<Index>::max(); }),
            "linformer_forward: segment is 9223372036854775807; 1 to 2^32 is right");
  EXPECT_EQ(error_of([&](LinformerOptions& x) { x.projections.keys = o.view().data; }),
            "linformer_forward: o shares memory with the projection of keys; it must lie apart");
  EXPECT_EQ(error_of([](LinformerOptions& x) { x.projections.values = nullptr; }),
            "linformer_forward: a projection has no memory");
}

}  // namespace
}  // namespace hsattn
