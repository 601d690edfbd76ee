// Memory of linear attention and linformer: what cannot be had is an error, and no call copies its keys.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cmath>

#include "support/linear.h"
#include "support/linformer.h"
#include "support/memory.h"

namespace hsattn {
namespace {

using testing::in_a_child;
using testing::limit_memory;
using testing::LinearProblem;
using testing::LinformerProblem;
using testing::LinformerSolution;
using testing::LseOf;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;

[[maybe_unused]] LinearProblem linear_problem(Index features) {
  LinearProblem p;
  p.shape = {.name = "memory", .batch = 2, .heads = 4, .kv_heads = 2, .queries = 70, .keys = 70, .dim = 24};
  p.features = features;
  return p;
}

#if HSATTN_CAN_FAIL_ALLOCATIONS

template <class T>
void expect_every_failure_of_linear_is_named(const LinearProblem& p, const Tensors<T>& in, Executor& executor) {
  const LinearOptions options = p.options();
  const AttentionInputs inputs = in.inputs(p.shape);
  std::vector<LseOf<T>> state(static_cast<std::size_t>(linear_state_elements(inputs, options.map)));
  Tensor<T> stepped(2, 4, 70, 24);
  Solution<T> out = solve_linear(p, in), right = out;
  const auto call = [&] {
    linear_attention_forward(inputs, options, out.o.view(), executor);
    linear_attention_backward(inputs, options, in.dout.view(), as_const(out.o.view()),
                              {out.dq.view(), out.dk.view(), out.dv.view()}, executor);
    linear_attention_step(inputs, options.map, {nullptr, state.data()}, stepped.view(), executor);
  };
  EXPECT_GT(testing::failures_until_success(call), 3);
  EXPECT_TRUE(same_bits(out, right));
  EXPECT_LE(max_error(stepped, right.o), 1e-12);
}

// In types that the calls do not convert: float32, and double. CI runs these suites in float32; other types only by
// hand.
TEST(BaselinesMemory, EveryAllocationThatFailsInLinearAttentionIsAnOutOfMemory) {
  if (testing::stored_type() != DType::kFloat32) GTEST_SKIP() << "in float32 alone";
  const auto pool = make_thread_pool(2);
  for (Executor* executor : {&serial_executor(), pool.get()}) {
    for (const Index features : {0, 16}) {
      const LinearProblem p = linear_problem(features);
      expect_every_failure_of_linear_is_named(p, random_tensors(p.shape, 1), *executor);
      expect_every_failure_of_linear_is_named(p, in_double(random_tensors(p.shape, 1)), *executor);
    }
  }
}

template <class T>
void expect_every_failure_of_linformer_is_named(const LinformerProblem& p, const Tensors<T>& in, Executor& executor) {
  const auto projections = testing::linformer_projections<LseOf<T>>(p);
  const LinformerOptions options = testing::linformer_options(p, projections);
  const AttentionInputs inputs = in.inputs(p.shape);
  LinformerSolution<T> out = solve_linformer(p, in), right = out;
  const auto call = [&] {
    linformer_forward(inputs, options, {out.o.view(), out.lse.data()}, executor);
    linformer_backward(inputs, options, {in.dout.view(), as_const(out.o.view()), out.lse.data()},
                       {out.dq.view(), out.dk.view(), out.dv.view()},
                       {out.dprojections.row(0, 0, 0), out.dprojections.row(0, 1, 0)}, executor);
  };
  EXPECT_GT(testing::failures_until_success(call), 3);
  EXPECT_TRUE(same_bits(out, right));
  EXPECT_TRUE(same_bits(out.dprojections, right.dprojections));
}

TEST(BaselinesMemory, EveryAllocationThatFailsInLinformerIsAnOutOfMemory) {
  if (testing::stored_type() != DType::kFloat32) GTEST_SKIP() << "in float32 alone";
  const auto pool = make_thread_pool(2);
  for (Executor* executor : {&serial_executor(), pool.get()}) {
    const LinformerProblem p{linear_problem(0).shape, 4, 32, 70};
    expect_every_failure_of_linformer_is_named(p, random_tensors(p.shape, 1), *executor);
    expect_every_failure_of_linformer_is_named(p, in_double(random_tensors(p.shape, 1)), *executor);
  }
}

#endif

#if HSATTN_CAN_LIMIT_MEMORY

// A call on many keys that all lie in one row of memory, by a stride of 0: a copy of keys or values in float32 would be
// 128 MiB. Gradients of keys and values lie in memory that is had before it is limited.
struct LongCall {
  static constexpr Index kKeys = Index{1} << 21, kDim = 8;
  static constexpr std::size_t kGradientBytes = kKeys * kDim * sizeof(float);
  std::vector<float> row, o, dq, lse;
  void* gradients = nullptr;
  AttentionInputs in;

  LongCall() : row(kDim, 0.5F), o(kDim), dq(kDim), lse(1) {
    gradients = mmap(nullptr, 2 * kGradientBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const ConstView one = contiguous_view(static_cast<const void*>(row.data()), DType::kFloat32, 1, 1, 1, kDim);
    ConstView keys = one;
    keys.tokens = kKeys;
    keys.token_stride = 0;
    in = {one, keys, keys, {}};
  }
  static View one_row(std::vector<float>& x) {
    return contiguous_view(static_cast<void*>(x.data()), DType::kFloat32, 1, 1, 1, kDim);
  }
  View gradient(std::size_t which) const {
    return contiguous_view(static_cast<void*>(static_cast<char*>(gradients) + which * kGradientBytes), DType::kFloat32,
                           1, 1, kKeys, kDim);
  }
  AttentionGradients grads() { return {one_row(dq), gradient(0), gradient(1)}; }
};

constexpr Index kMiB = Index{1} << 20;

// Forward and backward with so little memory; what the error of backward says, or "no error".
std::string linear_in(Index bytes, Index features) {
  return in_a_child([&]() -> std::string {
    LinearProblem p;
    p.shape.dim = LongCall::kDim, p.features = features;
    const LinearOptions options = p.options();
    LongCall call;
    limit_memory(bytes);
    linear_attention_forward(call.in, options, LongCall::one_row(call.o));
    if (std::abs(call.o[3] - 0.5F) > 1e-2F) return "the mean of equal values is another";
    return testing::out_of_memory_message([&] {
      linear_attention_backward(call.in, options, call.in.q, as_const(LongCall::one_row(call.o)), call.grads());
    });
  });
}

// Backward keeps the state before each chunk of 64 keys, [8 + 1, 16] floats.
TEST(BaselinesMemory, LinearAttentionKeepsStatesAndNoKeys) {
  for (const Index features : {0, 16}) {
    EXPECT_EQ(linear_in(2 * kMiB, features),
              "linear_attention_backward: states of a head: no memory for 18874368 bytes");
    EXPECT_EQ(linear_in(24 * kMiB, features), "no error");
  }
}

TEST(BaselinesMemory, LinformerKeepsProjectedRowsAndNoKeys) {
  EXPECT_EQ(in_a_child([]() -> std::string {
              LinformerProblem p;
              p.shape.options.causal = true, p.rank = 2, p.segment = 4096, p.longest = LongCall::kKeys;
              const Tensor<float> projections = testing::linformer_projections<float>(p);
              Tensor<float> dprojections = projections;
              const LinformerOptions options = testing::linformer_options(p, projections);
              LongCall call;
              limit_memory(4 * kMiB);
              linformer_forward(call.in, options, {LongCall::one_row(call.o), call.lse.data()});
              linformer_backward(call.in, options, {call.in.q, as_const(LongCall::one_row(call.o)), call.lse.data()},
                                 call.grads(), {dprojections.row(0, 0, 0), dprojections.row(0, 1, 0)});
              return std::isfinite(call.o[3]) && dprojections.data[5] != projections.data[5] ? "" : "nothing was done";
            }),
            "");
}

#endif

}  // namespace
}  // namespace hsattn
