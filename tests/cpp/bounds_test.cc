// Nothing is read or written beside what the caller gave: every tensor lies between forbidden pages, and the gaps of
// strided tensors stay as they were.
#include <gtest/gtest.h>

#include "support/fence.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Fence;
using testing::FencedTensor;
using testing::Layout;
using testing::LseOf;
using testing::Problem;
using testing::smallest_budgets;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;

struct Case {
  const char* name;
  Index heads, kv_heads, queries, keys, dim;
  Pattern pattern;
  bool causal, far_field;
};

constexpr Case kCases[] = {
    {"one token", 1, 1, 1, 1, 64, Pattern::kHsa, true, false},
    {"one token, full", 2, 2, 1, 1, 24, Pattern::kFull, true, false},
    {"one token, odd head", 1, 1, 1, 1, 13, Pattern::kFull, true, false},
    {"decode", 4, 2, 1, 203, 80, Pattern::kHsa, true, true},
    {"ragged", 3, 1, 131, 131, 24, Pattern::kHsa, true, true},
    {"ragged, 64", 2, 2, 77, 203, 64, Pattern::kHsa, true, true},
    {"ragged, 80", 2, 1, 101, 101, 80, Pattern::kHsa, true, false},
    {"both sides", 2, 1, 99, 99, 24, Pattern::kHsa, false, true},
    {"local", 2, 2, 67, 67, 80, Pattern::kLocal, true, false},
    {"full", 2, 1, 67, 67, 64, Pattern::kFull, true, false},
    {"longformer, both sides", 3, 1, 99, 99, 24, Pattern::kLongformer, false, false},
    {"bigbird, ragged", 2, 2, 77, 203, 64, Pattern::kBigBird, true, false},
    {"no keys", 1, 1, 3, 0, 64, Pattern::kFull, false, false},
    {"largest head", 1, 1, 9, 41, 256, Pattern::kHsa, true, true},
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
  p.options = {c.pattern, c.causal, {}};
  p.options.hsa = smallest_budgets(c.far_field);
  return p;
}

// One row [count], fenced in as a tensor of its own.
template <class T>
Tensor<T> row_of(const std::vector<T>& values) {
  Tensor<T> row(1, 1, 1, std::ssize(values));
  row.data = values;
  return row;
}

template <class T>
void expect_no_step_outside(const Problem& p, const Tensors<T>& in, Fence::Touching side) {
  const Plan plan = plan_of(p, in);
  const Solution<T> right = solve(p, in, plan);
  const auto given = [&](const Tensor<T>& x) { return FencedTensor<T>(x, side, true); };
  const auto wanted = [&](const Tensor<T>& x) { return FencedTensor<T>(x, side, false); };

  const FencedTensor<T> q = given(in.q), k = given(in.k), v = given(in.v), dout = given(in.dout);
  const AttentionInputs inputs{q.const_view(), k.const_view(), v.const_view(), p.scale};
  const Tensor<std::int32_t> ids = row_of(plan.blocks);
  const FencedTensor<std::int32_t> lists(ids, side, false), kept(ids, side, false), known(ids, side, true);
  const auto blocks = [](const FencedTensor<std::int32_t>& x) { return static_cast<std::int32_t*>(x.view().data); };
  make_plan_into(inputs.q, inputs.k, p.options, p.scale, blocks(lists));
  EXPECT_TRUE(lists.holds_exactly(ids)) << "lists";

  const Tensor<LseOf<T>> right_lse = row_of(right.lse);
  const FencedTensor<T> o = wanted(right.o), again = wanted(right.o);
  const FencedTensor<LseOf<T>> lse(right_lse, side, false), lse_again(right_lse, side, false);
  attention_forward(inputs, PlanView{plan.shape, blocks(known)}, {o.view(), lse.view().data});
  EXPECT_TRUE(o.holds_exactly(right.o)) << "o";
  EXPECT_TRUE(lse.holds_exactly(right_lse)) << "lse";

  attention_forward(inputs, p.options, {again.view(), lse_again.view().data}, blocks(kept));
  EXPECT_TRUE(again.holds_exactly(right.o)) << "o of one pass";
  EXPECT_TRUE(lse_again.holds_exactly(right_lse)) << "lse of one pass";
  EXPECT_TRUE(kept.holds_exactly(ids)) << "lists of one pass";

  const FencedTensor<T> dq = wanted(right.dq), dk = wanted(right.dk), dv = wanted(right.dv);
  attention_backward(inputs, PlanView{plan.shape, blocks(known)}, {dout.const_view(), o.const_view(), lse.view().data},
                     {dq.view(), dk.view(), dv.view()});
  EXPECT_TRUE(dq.holds_exactly(right.dq)) << "dq";
  EXPECT_TRUE(dk.holds_exactly(right.dk)) << "dk";
  EXPECT_TRUE(dv.holds_exactly(right.dv)) << "dv";
}

TEST(Bounds, NothingOutsideTheTensorsIsTouched) {
  for (const Case& c : kCases) {
    for (const Layout layout : {Layout::kContiguous, Layout::kTokenMajor, Layout::kPadded}) {
      const Problem p = problem_of(c, layout);
      for (const auto side : {Fence::Touching::kFirstPage, Fence::Touching::kLastPage}) {
        SCOPED_TRACE(describe(p) + (side == Fence::Touching::kFirstPage ? ", first page" : ", last page"));
        with_stored_tensors(p, 1, [&](const auto& in) { expect_no_step_outside(p, in, side); });
        if (c.keys <= 101) expect_no_step_outside(p, in_double(random_tensors(p, 1)), side);
      }
    }
  }
}

// The double that proves the fence: one element too far is death, one in a gap is seen.
TEST(Bounds, TheFenceHolds) {
  const Tensor<float> like(1, 2, 3, 8, Layout::kPadded);
  for (const auto side : {Fence::Touching::kFirstPage, Fence::Touching::kLastPage}) {
    const FencedTensor<float> fenced(like, side, true);
    auto* first = static_cast<volatile float*>(fenced.view().data);
    const Index span = like.head_stride + 2 * like.token_stride + like.dim;
    const Index outside = side == Fence::Touching::kFirstPage ? -1 : span;
    EXPECT_DEATH((void)first[outside], "");
    EXPECT_TRUE(fenced.holds_exactly(like));
    first[like.dim] = 0;
    EXPECT_FALSE(fenced.holds_exactly(like));
  }
}

}  // namespace
}  // namespace hsattn
