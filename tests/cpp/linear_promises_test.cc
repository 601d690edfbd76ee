// What linear attention promises besides its numbers: nothing leaks, steps equal the whole, threads and what a row does
// not see leave no trace, sequences are alone, wrong calls are refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/linear.h"

namespace hsattn {
namespace {

using testing::LinearProblem;
using testing::Random;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

LinearProblem problem_of(const char* name, Index heads, Index kv_heads, Index queries, Index keys, Index dim,
                         Index features) {
  LinearProblem p;
  p.shape = {.name = name, .heads = heads, .kv_heads = kv_heads, .queries = queries, .keys = keys, .dim = dim};
  p.shape.options.causal = true;
  p.features = features;
  return p;
}

LinearProblem random_problem(Random& random) {
  const Index keys = uniform(random, 60, 220), kv_heads = uniform(random, 1, 2);
  return problem_of("random", kv_heads * testing::one_of<Index>(random, {1, 3}), kv_heads,
                    uniform(random, 0, 1) == 0 ? keys : uniform(random, 30, keys), keys,
                    testing::one_of<Index>(random, {8, 24, 64}), testing::one_of<Index>(random, {0, 16, 40}));
}

struct Leak {
  Index outputs = 0, query_gradients = 0, key_gradients = 0, future_gradients = 0;
};

// What replacing the tokens from t on moves before t, of the outputs and of the gradients of a loss on the positions
// before t; and the gradients of that loss that are not zero from t on. Keys are `size` times as large as others, later
// ones `later` times.
Leak leak_at(const LinearProblem& p, std::uint64_t seed, Index t, float size, float later) {
  Tensors<float> in = random_tensors(p.shape, seed);
  for (float& x : in.k.data) x = testing::as_stored(size * x);
  const Tensors<float> other = random_tensors(p.shape, seed + 1000);
  const Index first_after = std::max<Index>(0, t - (p.shape.keys - p.shape.queries));
  in.dout.for_each([&](float& x, Index, Index, Index i, Index) { x = i < first_after ? x : 0; });
  Tensors<float> changed = in;
  const auto replace = [&](Tensor<float>& x, const Tensor<float>& by, Index from, float factor) {
    x.for_each([&](float& number, Index b, Index h, Index i, Index c) {
      if (i >= from) number = testing::as_stored(factor * by.row(b, h, i)[c]);
    });
  };
  replace(changed.q, other.q, first_after, 3);
  replace(changed.k, other.k, t, later);
  replace(changed.v, other.v, t, 3);
  const Solution<float> a = solve_linear(p, in), b = solve_linear(p, changed);
  return {count_of_moved(a.o, b.o, 0, first_after), count_of_moved(a.dq, b.dq, 0, first_after),
          count_of_moved(a.dk, b.dk, 0, t) + count_of_moved(a.dv, b.dv, 0, t),
          count_of_not_zero(a.dq, first_after) + count_of_not_zero(a.dk, t) + count_of_not_zero(a.dv, t)};
}

TEST(LinearPromises, NothingBeforeATokenMovesWithIt) {
  Random random(77);
  for (int i = 0; i < 60; ++i) {
    const LinearProblem p = random_problem(random);
    const Index t = p.shape.keys - uniform(random, 1, p.shape.queries - 1);
    // performer's scale falls with the size of keys: small ones behind large ones raise it
    const float size = testing::one_of(random, {1.0F, 30.0F}), later = testing::one_of(random, {0.1F, 3.0F, 100.0F});
    SCOPED_TRACE(describe(p) + concat(", seed ", i, ", t ", t, ", size ", size, ", later ", later));
    const Leak leak = leak_at(p, static_cast<std::uint64_t>(i), t, size, later);
    EXPECT_EQ(leak.outputs, 0);
    EXPECT_EQ(leak.query_gradients, 0);
    EXPECT_EQ(leak.key_gradients, 0);
    EXPECT_EQ(leak.future_gradients, 0);
  }
}

TEST(LinearPromises, TheTestCatchesAttentionToTheFuture) {
  Random random(78);
  for (int i = 0; i < 6; ++i) {
    LinearProblem p = random_problem(random);
    p.shape.options.causal = false;
    const Leak leak = leak_at(p, static_cast<std::uint64_t>(i), p.shape.keys - p.shape.queries / 2, 1, 3);
    EXPECT_GT(leak.outputs, 0);
    EXPECT_GT(leak.query_gradients, 0);
    EXPECT_GT(leak.key_gradients, 0);
    EXPECT_GT(leak.future_gradients, 0);
  }
}

TEST(LinearPromises, ThreadsLeaveNoTrace) {
  const auto two = make_thread_pool(2), three = make_thread_pool(3);
  for (const Index features : {0, 24}) {
    for (const bool causal : {true, false}) {
      LinearProblem p = problem_of("threads", 6, 3, 190, 200, 24, features);
      p.shape.batch = 2;
      p.shape.options.causal = causal;
      const Tensors<float> in = random_tensors(p.shape, 1);
      const Solution<float> right = solve_linear(p, in);
      for (int repeat = 0; repeat < 5; ++repeat) {
        EXPECT_TRUE(same_bits(solve_linear(p, in, *two), right));
        EXPECT_TRUE(same_bits(solve_linear(p, in, *three), right));
      }
    }
  }
}

// Poison in token t's key, value, query or gradient: rows that do not see it keep their bits, and so do the gradients
// of what only such rows see.
TEST(LinearPromises, WhatARowDoesNotSeeCannotHurtIt) {
  Random random(5);
  for (int i = 0; i < 60; ++i) {
    LinearProblem p = random_problem(random);
    p.shape.queries = p.shape.keys;
    const Index t = uniform(random, 1, p.shape.keys - 1);
    const float poison = testing::one_of(random, {kNan, kInfinity, -kInfinity});
    const Tensors<float> in = random_tensors(p.shape, static_cast<std::uint64_t>(i));
    const Solution<float> right = solve_linear(p, in);
    SCOPED_TRACE(describe(p) + concat(", t ", t, ", ", poison));
    for (const auto member : {&Tensors<float>::k, &Tensors<float>::v}) {  // seen by positions from t on
      Tensors<float> bad = in;
      (bad.*member).row(0, 0, t)[3] = poison;
      const Solution<float> found = solve_linear(p, bad);
      EXPECT_EQ(count_of_moved(found.o, right.o, 0, t), 0);
      EXPECT_EQ(count_of_moved(found.dq, right.dq, 0, t), 0);
    }
    for (const auto member : {&Tensors<float>::q, &Tensors<float>::dout}) {  // sees tokens up to t
      Tensors<float> bad = in;
      (bad.*member).row(0, 0, t)[3] = poison;
      const Solution<float> found = solve_linear(p, bad);
      EXPECT_EQ(count_of_moved(found.o, right.o, 0, t) + count_of_moved(found.o, right.o, t + 1, p.shape.keys), 0);
      EXPECT_EQ(count_of_moved(found.dk, right.dk, t + 1, p.shape.keys), 0);
      EXPECT_EQ(count_of_moved(found.dv, right.dv, t + 1, p.shape.keys), 0);
    }
  }
}

TEST(LinearPromises, PoisonReachesWhatSeesIt) {
  const LinearProblem p = problem_of("poison", 1, 1, 100, 100, 8, 0);
  Tensors<float> in = random_tensors(p.shape, 1);
  in.k.row(0, 0, 50)[3] = kNan;
  const Solution<float> out = solve_linear(p, in);
  for (Index t = 50; t < 100; ++t) EXPECT_TRUE(std::isnan(out.o.row(0, 0, t)[0]));
}

// o of steps of the given lengths, one after another.
template <class T>
Tensor<T> in_steps(const LinearProblem& p, const Tensors<T>& in, const std::vector<Index>& lengths) {
  const testing::Problem& s = p.shape;
  const FeatureMap map = p.options().map;
  std::vector<testing::LseOf<T>> state(static_cast<std::size_t>(linear_state_elements(in.inputs(s), map)));
  Tensor<T> whole(s.batch, s.heads, s.queries, s.dim);
  Index begin = 0;
  for (const Index length : lengths) {
    const Tensor<T> q = tokens_of(in.q, begin, begin + length), k = tokens_of(in.k, begin, begin + length);
    const Tensor<T> v = tokens_of(in.v, begin, begin + length);
    Tensor<T> o(s.batch, s.heads, length, s.dim);
    linear_attention_step({q.view(), k.view(), v.view(), s.scale}, map, {state.data(), state.data()}, o.view());
    o.for_each([&](const T& x, Index b, Index h, Index t, Index c) { whole.row(b, h, begin + t)[c] = x; });
    begin += length;
  }
  return whole;
}

TEST(LinearPromises, StepsEqualTheWhole) {
  for (const Index features : {0, 24}) {
    LinearProblem p = problem_of("steps", 6, 2, 230, 230, 24, features);
    SCOPED_TRACE(describe(p));
    const Tensors<float> numbers = random_tensors(p.shape, 1);
    with_stored_tensors(p.shape, 1, [&](const auto& in) {
      using T = typename std::decay_t<decltype(in.q.data)>::value_type;
      Tensor<T> whole(1, 6, 230, 24);
      linear_attention_forward(in.inputs(p.shape), p.options(), whole.view());
      EXPECT_TRUE(same_bits(in_steps(p, in, {64, 128, 38}), whole)) << "at multiples of 64";
      const Solution<double> exact = solve_linear(p, in_double(numbers));
      const double allowed = max_error(whole, exact.o) + testing::rounding_floor(largest_of(exact.o));
      EXPECT_LE(max_error(in_steps(p, in, {1, 100, 29, 100}), exact.o), allowed);
      EXPECT_LE(max_error(in_steps(p, in, std::vector<Index>(230, 1)), exact.o), allowed) << "one by one";
    });
    const Tensors<double> in = in_double(numbers);
    EXPECT_LE(max_error(in_steps(p, in, {1, 100, 29, 100}), solve_linear(p, in).o), 1e-12);
  }
}

TEST(LinearPromises, StepsOfSequencesAreAlone) {
  for (const Index features : {0, 24}) {
    const LinearProblem p = problem_of("steps of sequences", 4, 2, 150, 150, 24, features);
    const FeatureMap map = p.options().map;
    const std::vector<Sequence> sequences = {
        {0, {0, 70}, {0, 70}}, {0, {75, 90}, {71, 120}}, {0, {100, 100}, {120, 130}}, {0, {100, 100}, {130, 130}}};
    Tensors<double> in = in_double(random_tensors(p.shape, 1));
    in.k.row(0, 0, 140)[0] = in.v.row(0, 1, 70)[0] = kNan;  // of no sequence
    const AttentionInputs inputs = in.inputs(p.shape);
    const Index size = linear_state_elements(inputs, map, 1);
    std::vector<double> states(static_cast<std::size_t>(4 * size)), alone(states.size());
    Tensor<double> o(1, 4, 150, 24);
    for (int step = 0; step < 2; ++step) {  // the second goes on from the first
      linear_attention_step(inputs, sequences, map, {step == 0 ? nullptr : states.data(), states.data()}, o.view());
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        const auto [queries, keys] = std::pair{sequences[i].queries, sequences[i].keys};
        const auto q = tokens_of(in.q, queries.begin, queries.end), k = tokens_of(in.k, keys.begin, keys.end);
        const auto v = tokens_of(in.v, keys.begin, keys.end);
        double* state = alone.data() + static_cast<Index>(i) * size;
        Tensor<double> right(1, 4, queries.size(), 24);
        linear_attention_step({q.view(), k.view(), v.view(), {}}, map, {step == 0 ? nullptr : state, state},
                              right.view());
        EXPECT_TRUE(same_bits(tokens_of(o, queries.begin, queries.end), right));
      }
      EXPECT_EQ(states, alone);
    }
    EXPECT_EQ(largest_of(tokens_of(o, 70, 75)) + largest_of(tokens_of(o, 90, 150)), 0);
    EXPECT_NE(states[static_cast<std::size_t>(2 * size)], 0);  // keys without queries are added
    EXPECT_EQ(states[static_cast<std::size_t>(3 * size)], 0);
  }
}

TEST(LinearPromises, SequencesAreAlone) {
  Random random(3);
  for (const Index features : {0, 24}) {
    for (const bool causal : {true, false}) {
      LinearProblem p = problem_of("sequences", 4, 2, 150, 150, 24, features);
      p.shape.batch = 2;
      p.shape.options.causal = causal;
      const LinearOptions options = p.options();
      Tensors<float> in = random_tensors(p.shape, 1);
      const std::vector<Sequence> sequences = {
          {0, {0, 70}, {0, 70}}, {0, {75, 90}, {71, 120}}, {0, {100, 100}, {120, 130}}, {1, {3, 150}, {3, 150}}};
      for (Index h = 0; h < 2; ++h) in.k.row(1, h, 1)[0] = in.v.row(1, h, 1)[0] = kNan;  // of no sequence
      const auto outputs = [&](Index heads) { return Tensor<float>(2, heads, 150, 24); };
      Tensor<float> o = outputs(4), dq = outputs(4), dk = outputs(2), dv = outputs(2);
      const AttentionInputs inputs = in.inputs(p.shape);
      linear_attention_forward(inputs, sequences, options, o.view());
      linear_attention_backward(inputs, sequences, options, std::as_const(in.dout).view(), as_const(o.view()),
                                {dq.view(), dk.view(), dv.view()});
      std::vector<bool> query_used(300), key_used(300);
      for (const Sequence& s : sequences) {
        LinearProblem alone = p;
        alone.shape.batch = 1;
        alone.shape.queries = s.queries.size(), alone.shape.keys = s.keys.size();
        const auto cut = [&](const Tensor<float>& x, Range r) {
          Tensor<float> part(1, x.heads, r.size(), x.dim);
          part.for_each([&](float& y, Index, Index h, Index t, Index c) { y = x.row(s.batch, h, r.begin + t)[c]; });
          return part;
        };
        const Tensors<float> own{cut(in.q, s.queries), cut(in.k, s.keys), cut(in.v, s.keys), cut(in.dout, s.queries)};
        Solution<float> right;
        right.o = right.dq = Tensor<float>(1, 4, s.queries.size(), 24);
        right.dk = right.dv = Tensor<float>(1, 2, s.keys.size(), 24);
        linear_attention_forward(own.inputs(alone.shape), options, right.o.view());
        linear_attention_backward(own.inputs(alone.shape), options, own.dout.view(), as_const(right.o.view()),
                                  {right.dq.view(), right.dk.view(), right.dv.view()});
        EXPECT_TRUE(same_bits(cut(o, s.queries), right.o));
        EXPECT_TRUE(same_bits(cut(dq, s.queries), right.dq));
        EXPECT_TRUE(same_bits(cut(dk, s.keys), right.dk));
        EXPECT_TRUE(same_bits(cut(dv, s.keys), right.dv));
        for (Index t = s.queries.begin; t < s.queries.end; ++t) query_used[s.batch * 150 + t] = true;
        for (Index t = s.keys.begin; t < s.keys.end; ++t) key_used[s.batch * 150 + t] = true;
      }
      const auto expect_zero = [&](const Tensor<float>& x, const std::vector<bool>& used) {
        x.for_each([&](const float& y, Index b, Index, Index t, Index) { EXPECT_TRUE(used[b * 150 + t] || y == 0); });
      };
      expect_zero(o, query_used);
      expect_zero(dq, query_used);
      expect_zero(dk, key_used);
      expect_zero(dv, key_used);
    }
  }
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no InvalidArgument";
}

TEST(LinearPromises, WrongCallsAreRefused) {
  LinearProblem p = problem_of("call", 2, 2, 6, 6, 8, 0);
  const Tensors<float> in = random_tensors(p.shape, 1);
  Tensor<float> o(1, 2, 6, 8);
  AttentionInputs inputs = in.inputs(p.shape);
  const auto forward = [&](const LinearOptions& options) {
    return error_of([&] { linear_attention_forward(inputs, options, o.view()); });
  };
  inputs.scale = 2;
  EXPECT_EQ(forward({}), "linear_attention_forward: scale is 2; elu + 1 has none");
  const std::vector<float> w(64);
  inputs.scale = -2;
  EXPECT_EQ(forward({{w.data(), 8}, true}), "linear_attention_forward: scale is -2; it must be positive");
  inputs.scale = {};
  EXPECT_EQ(forward({{w.data(), 0}, true}), "linear_attention_forward: features is 0; 1 to 65536 is right");
  inputs.k.dim = 4;
  EXPECT_EQ(forward({}), "linear_attention_forward: k has head dimension 4, q has 8; they must be equal");
  inputs = in.inputs(p.shape);
  inputs.k.tokens = inputs.v.tokens = 5;
  std::vector<float> state(static_cast<std::size_t>(linear_state_elements(inputs, {})));
  EXPECT_EQ(error_of([&] { linear_attention_step(inputs, {}, {nullptr, state.data()}, o.view()); }),
            "linear_attention_step: there are 6 queries and 5 keys; the queries must be the last of the keys");
  EXPECT_EQ(error_of([&] { linear_attention_step(in.inputs(p.shape), {}, {}, o.view()); }),
            "linear_attention_step: the state after has no memory");
  const AttentionInputs right = in.inputs(p.shape);
  EXPECT_EQ(error_of([&] { linear_attention_step(right, {}, {nullptr, o.view().data}, o.view()); }),
            "linear_attention_step: the state after shares memory with o; it must lie apart");
  EXPECT_EQ(error_of([&] { linear_attention_step(right, {}, {state.data() + 1, state.data()}, o.view()); }),
            "linear_attention_step: the state after shares memory with the state before; it must lie apart");
  AttentionInputs with_nodes = right;
  with_nodes.pooled = ConstNodes{right.k, right.v};
  EXPECT_EQ(error_of([&] { linear_attention_forward(with_nodes, {}, o.view()); }),
            "linear_attention_forward: pooled keys and values are given; this attention has no nodes");
  EXPECT_EQ(error_of([] { draw_features(0, 8, 1); }), "draw_features: features is 0; 1 to 65536 is right");
}

// A key in two sequences is refused before any gradient is written.
TEST(LinearPromises, RefusedCallsWriteNothing) {
  const LinearProblem p = problem_of("refused", 1, 1, 8, 8, 8, 0);
  const Tensors<float> in = random_tensors(p.shape, 1);
  Tensor<float> dq(1, 1, 8, 8), dk = dq, dv = dq;
  for (Tensor<float>* x : {&dq, &dk, &dv}) std::fill(x->data.begin(), x->data.end(), 777.0F);
  const Tensor<float> before = dq;
  const Sequence sequences[] = {{0, {0, 2}, {0, 5}}, {0, {2, 4}, {4, 8}}};
  EXPECT_NE(error_of([&] {
              linear_attention_backward(in.inputs(p.shape), sequences, {}, in.dout.view(), in.dout.view(),
                                        {dq.view(), dk.view(), dv.view()});
            }),
            "no InvalidArgument");
  for (const Tensor<float>* x : {&dq, &dk, &dv}) EXPECT_TRUE(same_bits(*x, before));
}

// Keys are added to the state also where there is no query head, in each type.
TEST(LinearPromises, AStepWithoutQueryHeadsKeepsItsKeys) {
  const LinearProblem with = problem_of("heads", 2, 2, 5, 9, 16, 0), without = problem_of("none", 0, 2, 5, 9, 16, 0);
  const auto state_of = [&]<class T>(const LinearProblem& p, const Tensors<T>& in) {
    AttentionInputs inputs = in.inputs(p.shape);
    inputs.q.heads = p.shape.heads;
    Tensor<T> o(1, std::max<Index>(1, p.shape.heads), 5, 16);
    View out = o.view();
    out.heads = p.shape.heads;
    std::vector<T> state(static_cast<std::size_t>(linear_state_elements(inputs, {})), T{777});
    linear_attention_step(inputs, {}, {nullptr, state.data()}, out);
    return state;
  };
  const Tensors<float> in = random_tensors(with.shape, 1);
  EXPECT_EQ(state_of(with, in), state_of(without, in));
  EXPECT_EQ(state_of(with, in_double(in)), state_of(without, in_double(in)));
}

}  // namespace
}  // namespace hsattn
