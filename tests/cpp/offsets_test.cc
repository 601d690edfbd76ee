// Tensors that span more than 2^31 and 2^32 elements: nothing is counted with 32 bits.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::smallest_budgets;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;

constexpr Index kBillion = 1000000000;

TEST(Offsets, RowsLieWhereTheStridesSay) {
  // Addresses only; nothing is read.
  float here = 0;
  float* const base = &here;
  const auto floats_to = [&](const float* row) {
    return static_cast<Index>(reinterpret_cast<std::uintptr_t>(row) - reinterpret_cast<std::uintptr_t>(base)) / 4;
  };
  const View v{base, DType::kFloat32, 4, 4, 40, 64, 16 * kBillion, 4 * kBillion, kBillion / 10};
  const auto offset = [&](Index batch, Index head, Index token) {
    return floats_to(rows_of<float>(v, batch, head).row(token));
  };
  EXPECT_EQ(offset(0, 0, 39), 39 * kBillion / 10);
  EXPECT_EQ(offset(0, 3, 0), 12 * kBillion);
  EXPECT_EQ(offset(3, 0, 0), 48 * kBillion);
  EXPECT_EQ(offset(3, 3, 39), 48 * kBillion + 12 * kBillion + 39 * kBillion / 10);
  EXPECT_EQ((View{nullptr, DType::kFloat32, 8, 8, 1 << 20, 128}.elements()), Index{1} << 33);
  const Rows<float> contiguous =
      rows_of<float>(contiguous_view<void*>(base, DType::kFloat32, 2, 8, 1 << 22, 128), 1, 7);
  EXPECT_EQ(floats_to(contiguous.row((1 << 22) - 1)), (Index{1} << 33) - 128);
}

// A tensor in reserved addresses, of which only the pages of its rows ever get memory.
class SparseTensor {
 public:
  SparseTensor(const Tensor<float>& like, const View& strides) : view_(as_shaped(like, strides)) {
    bytes_ = static_cast<std::size_t>(4 * (last_row() + like.dim));
    view_.data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (view_.data == MAP_FAILED) throw std::runtime_error("SparseTensor: mmap failed");
    like.for_each([&](const float& x, Index b, Index h, Index t, Index c) { *at(b, h, t, c) = x; });
  }
  ~SparseTensor() { munmap(view_.data, bytes_); }
  SparseTensor(const SparseTensor&) = delete;
  SparseTensor& operator=(const SparseTensor&) = delete;

  const View& view() const { return view_; }
  ConstView const_view() const { return as_const(view_); }
  Index last_row() const {
    return (view_.batch - 1) * view_.batch_stride + (view_.heads - 1) * view_.head_stride +
           (view_.tokens - 1) * view_.token_stride;
  }
  Tensor<float> packed() const {
    Tensor<float> tight(view_.batch, view_.heads, view_.tokens, view_.dim);
    tight.for_each([&](float& x, Index b, Index h, Index t, Index c) { x = *at(b, h, t, c); });
    return tight;
  }

 private:
  static View as_shaped(const Tensor<float>& like, const View& strides) {
    View v = contiguous_view<void*>(nullptr, DType::kFloat32, like.batch, like.heads, like.tokens, like.dim);
    v.batch_stride = strides.batch_stride;
    v.head_stride = strides.head_stride;
    v.token_stride = strides.token_stride;
    return v;
  }
  float* at(Index b, Index h, Index t, Index c) const {
    return static_cast<float*>(view_.data) + b * view_.batch_stride + h * view_.head_stride + t * view_.token_stride +
           c;
  }

  View view_;
  std::size_t bytes_ = 0;
};

struct Case {
  const char* name;
  Index batch_stride, head_stride, token_stride;
};

// 90 tokens, 2 heads, 2 batches: the last row lies past 2^32 elements in each.
constexpr Case kCases[] = {
    {"far tokens", 90 * kBillion / 18, 32, kBillion / 18},
    {"far heads", 90 * 24, 44 * kBillion / 10, 24},
    {"far batches", 44 * kBillion / 10, 90 * 24, 24},
};

TEST(Offsets, SpreadOverMoreThan2To32ElementsGivesTheBitsOfPacked) {
  for (const Case& c : kCases) {
    for (const Pattern pattern : {Pattern::kHsa, Pattern::kFull}) {
      Problem p{.name = c.name, .batch = 2, .heads = 2, .kv_heads = 2, .queries = 90, .keys = 90, .dim = 24};
      p.options = {pattern, true, {}};
      p.options.hsa = smallest_budgets();
      SCOPED_TRACE(describe(p));
      const Tensors<float> in = random_tensors(p, 1);
      const Plan plan = plan_of(p, in);
      const Solution<float> right = solve(p, in, plan);

      View strides;
      strides.batch_stride = c.batch_stride;
      strides.head_stride = c.head_stride;
      strides.token_stride = c.token_stride;
      const auto spread = [&](const Tensor<float>& x) { return SparseTensor(x, strides); };
      const SparseTensor q = spread(in.q), k = spread(in.k), v = spread(in.v), dout = spread(in.dout);
      const Tensor<float> nothing(p.batch, p.heads, p.queries, p.dim);
      const SparseTensor o = spread(nothing), dq = spread(nothing), dk = spread(nothing), dv = spread(nothing);
      ASSERT_GT(o.last_row(), Index{1} << 32);

      const AttentionInputs inputs{q.const_view(), k.const_view(), v.const_view(), p.scale};
      ASSERT_EQ(make_plan(inputs.q, inputs.k, p.options, p.scale), plan);
      std::vector<float> lse(right.lse.size());
      attention_forward(inputs, plan, {o.view(), lse.data()});
      attention_backward(inputs, plan, {dout.const_view(), o.const_view(), lse.data()},
                         {dq.view(), dk.view(), dv.view()});
      EXPECT_TRUE(same_bits(Solution<float>{o.packed(), dq.packed(), dk.packed(), dv.packed(), lse}, right));
    }
  }
}

}  // namespace
}  // namespace hsattn
