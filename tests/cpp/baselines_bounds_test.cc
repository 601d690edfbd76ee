// Linear attention and linformer touch nothing beside what the caller gave: every tensor, state and projection lies
// between forbidden pages, and the gaps of strided tensors stay as they were.
#include <gtest/gtest.h>

#include "support/fence.h"
#include "support/linear.h"
#include "support/linformer.h"

namespace hsattn {
namespace {

using testing::Fence;
using testing::FencedTensor;
using testing::Layout;
using testing::LinearProblem;
using testing::LinformerProblem;
using testing::LseOf;
using testing::Problem;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;

struct Case {
  const char* name;
  Index heads, kv_heads, queries, keys, dim;
  bool causal;
};

constexpr Case kCases[] = {
    {"one token", 1, 1, 1, 1, 64, true},
    {"one token, odd head", 1, 1, 1, 1, 13, false},
    {"decode", 4, 2, 1, 203, 80, true},
    {"ragged", 3, 1, 131, 131, 24, true},
    {"chunk and a token", 8, 1, 65, 65, 64, true},
    {"both sides", 2, 1, 99, 77, 24, false},
    {"more queries than keys", 2, 2, 90, 70, 37, true},
    {"largest head", 1, 1, 9, 41, 256, true},
    {"no keys", 1, 1, 3, 0, 64, false},
};

Problem problem_of(const Case& c, Layout layout) {
  Problem p{.name = c.name,
            .batch = 2,
            .heads = c.heads,
            .kv_heads = c.kv_heads,
            .queries = c.queries,
            .keys = c.keys,
            .dim = c.dim,
            .layout = layout};
  p.options.causal = c.causal;
  return p;
}

// body(tensors, side) for every case, layout and side of the fence: in the stored type, and short ones in double.
template <class Body>
void for_each_case(const Body& body) {
  for (const Case& c : kCases) {
    for (const Layout layout : {Layout::kContiguous, Layout::kTokenMajor, Layout::kPadded}) {
      const Problem p = problem_of(c, layout);
      for (const auto side : {Fence::Touching::kFirstPage, Fence::Touching::kLastPage}) {
        SCOPED_TRACE(concat(c.name, ", layout ", static_cast<int>(layout),
                            side == Fence::Touching::kFirstPage ? ", first page" : ", last page"));
        with_stored_tensors(p, 1, [&](const auto& in) { body(p, in, side); });
        if (c.keys <= 77) body(p, in_double(random_tensors(p, 1)), side);
      }
    }
  }
}

// What forward and backward give, laid out as the problem says; full of NaN.
template <class T>
Solution<T> outputs_of(const Problem& p) {
  Solution<T> out;
  out.o = out.dq = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  out.dk = out.dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  return out;
}

// The inputs in fences, and room for what `right` holds in fences as well.
template <class T>
struct Fenced {
  const Solution<T>& right;
  FencedTensor<T> q, k, v, dout, o, dq, dk, dv;
  AttentionInputs inputs;

  Fenced(const Problem& p, const Tensors<T>& in, const Solution<T>& solution, Fence::Touching side)
      : right(solution),
        q(in.q, side, true),
        k(in.k, side, true),
        v(in.v, side, true),
        dout(in.dout, side, true),
        o(right.o, side, false),
        dq(right.dq, side, false),
        dk(right.dk, side, false),
        dv(right.dv, side, false),
        inputs{q.const_view(), k.const_view(), v.const_view(), p.scale} {}

  AttentionGradients gradients() const { return {dq.view(), dk.view(), dv.view()}; }

  void expect_right() const {
    EXPECT_TRUE(o.holds_exactly(right.o)) << "o";
    EXPECT_TRUE(dq.holds_exactly(right.dq)) << "dq";
    EXPECT_TRUE(dk.holds_exactly(right.dk)) << "dk";
    EXPECT_TRUE(dv.holds_exactly(right.dv)) << "dv";
  }
};

TEST(BaselinesBounds, LinearAttentionTouchesNothingOutside) {
  for (const Index features : {0, 19}) {
    for_each_case([&]<class T>(const Problem& p, const Tensors<T>& in, Fence::Touching side) {
      LinearOptions options = LinearProblem{p, features}.options();
      const Index rows = std::max<Index>(1, features);
      Tensor<float> map(1, 1, rows, p.dim);
      if (features > 0) std::copy_n(options.map.projection, map.data.size(), map.data.data());
      const FencedTensor<float> fenced_map(map, side, true);
      Solution<T> right = outputs_of<T>(p);
      linear_attention_forward(in.inputs(p), options, right.o.view());
      linear_attention_backward(in.inputs(p), options, in.dout.view(), as_const(right.o.view()),
                                {right.dq.view(), right.dk.view(), right.dv.view()});
      if (features > 0) options.map.projection = static_cast<const float*>(fenced_map.view().data);
      const Fenced<T> fenced(p, in, right, side);
      linear_attention_forward(fenced.inputs, options, fenced.o.view());
      linear_attention_backward(fenced.inputs, options, fenced.dout.const_view(), fenced.o.const_view(),
                                fenced.gradients());
      fenced.expect_right();
    });
  }
}

TEST(BaselinesBounds, StepsTouchNothingOutside) {
  for (const Index features : {0, 19}) {
    for_each_case([&]<class T>(const Problem& p, const Tensors<T>& in, Fence::Touching side) {
      if (p.queries > p.keys) return;
      const FeatureMap map = LinearProblem{p, features}.options().map;
      const Index elements = linear_state_elements(in.inputs(p), map);
      Tensor<LseOf<T>> state(1, 1, 1, elements);
      Solution<T> right = outputs_of<T>(p);
      linear_attention_step(in.inputs(p), map, {nullptr, state.data.data()}, right.o.view());
      const Tensor<LseOf<T>> before = state;
      linear_attention_step(in.inputs(p), map, {before.data.data(), state.data.data()}, right.o.view());
      const Fenced<T> fenced(p, in, right, side);
      const FencedTensor<LseOf<T>> given(before, side, true), wanted(state, side, false);
      linear_attention_step(fenced.inputs, map, {given.view().data, wanted.view().data}, fenced.o.view());
      EXPECT_TRUE(fenced.o.holds_exactly(right.o)) << "o";
      EXPECT_TRUE(wanted.holds_exactly(state)) << "the state after";
      EXPECT_TRUE(given.holds_exactly(before)) << "the state before";
    });
  }
}

TEST(BaselinesBounds, LinformerTouchesNothingOutside) {
  for_each_case([]<class T>(const Problem& p, const Tensors<T>& in, Fence::Touching side) {
    const LinformerProblem problem{p, 3, 32, std::max<Index>(p.keys, 1)};
    const auto projections = testing::linformer_projections<LseOf<T>>(problem);
    Solution<T> right = outputs_of<T>(p);
    Tensor<LseOf<T>> lse(p.batch, p.heads, 1, p.queries), dprojections = projections;
    const AttentionInputs inputs = in.inputs(p);
    const LinformerOptions options = testing::linformer_options(problem, projections);
    linformer_forward(inputs, options, {right.o.view(), lse.data.data()});
    linformer_backward(inputs, options, {in.dout.view(), as_const(right.o.view()), lse.data.data()},
                       {right.dq.view(), right.dk.view(), right.dv.view()},
                       {dprojections.row(0, 0, 0), dprojections.row(0, 1, 0)});

    // Each projection in a fence of its own.
    const auto one = [](const Tensor<LseOf<T>>& both, Index which) {
      Tensor<LseOf<T>> x(1, 1, both.tokens, both.dim);
      std::copy_n(both.row(0, which, 0), x.data.size(), x.data.data());
      return x;
    };
    const auto keys = one(projections, 0), values = one(projections, 1);
    const FencedTensor<LseOf<T>> fenced_keys(keys, side, true), fenced_values(values, side, true);
    const FencedTensor<LseOf<T>> dkeys(keys, side, false), dvalues(values, side, false), fenced_lse(lse, side, false);
    LinformerOptions fenced_options = options;
    fenced_options.projections.keys = fenced_keys.view().data;
    fenced_options.projections.values = fenced_values.view().data;
    const Fenced<T> fenced(p, in, right, side);
    linformer_forward(fenced.inputs, fenced_options, {fenced.o.view(), fenced_lse.view().data});
    linformer_backward(fenced.inputs, fenced_options,
                       {fenced.dout.const_view(), fenced.o.const_view(), fenced_lse.view().data}, fenced.gradients(),
                       {dkeys.view().data, dvalues.view().data});
    fenced.expect_right();
    EXPECT_TRUE(fenced_lse.holds_exactly(lse)) << "lse";
    EXPECT_TRUE(dkeys.holds_exactly(one(dprojections, 0))) << "the gradient of the keys' projection";
    EXPECT_TRUE(dvalues.holds_exactly(one(dprojections, 1))) << "the gradient of the values' projection";
  });
}

}  // namespace
}  // namespace hsattn
