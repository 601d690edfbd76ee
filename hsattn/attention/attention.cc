#include "hsattn/attention/attention.h"

#include <new>

#include "hsattn/attention/checks.h"
#include "hsattn/base/buffer.h"
#include "hsattn/base/cpu.h"
#include "hsattn/base/error.h"
#include "hsattn/kernels/cpu/driver.h"
#include "hsattn/kernels/reference/reference.h"

namespace hsattn {
namespace {

PlanShape shape_for(const ConstView& q, const ConstView& k, const PlanOptions& options) {
  return plan_shape(options, q.batch, k.heads, q.tokens, k.tokens);
}

Index list_elements(const PlanShape& s) { return s.batch * s.kv_heads * s.queries * s.slots(); }

// Large memory is asked for, and refused, by its size. What grows step by step, lists of a tile, ends here.
template <class Body>
void with_errors_of(const char* who, const Body& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(concat(who, ": no memory for lists that had to grow"));
  }
}

// The kernels, best first: the vector kernels take all types but float64, the reference everything.
bool vector_kernels_accept(const ConstView& q) { return q.dtype != DType::kFloat64; }

// The instruction sets with bfloat16 products differ from those without for bfloat16 tensors alone.
const char* name_of_vector_kernel(DType type) {
  const Isa isa = selected_isa();
  if (type == DType::kBFloat16) return name_of(isa);
  return name_of(isa == Isa::kAvx512BFloat16 ? Isa::kAvx512 : isa == Isa::kPortableBFloat16 ? Isa::kPortable : isa);
}

}  // namespace

void make_plan_into(const ConstView& q, const ConstView& k, const PlanOptions& options, std::optional<double> scale,
                    std::int32_t* blocks, Executor& executor) {
  check_queries_and_keys("make_plan", q, k, scale);
  const PlanShape shape = shape_for(q, k, options);
  if (list_elements(shape) == 0) return;
  check(blocks != nullptr, "make_plan: blocks has no memory; the plan needs ", list_elements(shape), " ids");
  const auto select = vector_kernels_accept(q) ? cpu::select : reference::select;
  with_errors_of("make_plan", [&] { select(q, k, shape, options, scale_or_default(scale, q.dim), blocks, executor); });
}

Plan make_plan(const ConstView& q, const ConstView& k, const PlanOptions& options, std::optional<double> scale,
               Executor& executor) {
  check_queries_and_keys("make_plan", q, k, scale);
  Plan plan{shape_for(q, k, options), {}};
  plan.blocks = allocate_vector<std::int32_t>(list_elements(plan.shape), "make_plan: lists");
  make_plan_into(q, k, options, scale, plan.blocks.data(), executor);
  return plan;
}

void attention_forward(const AttentionInputs& in, const PlanView& plan, const AttentionOutputs& out,
                       Executor& executor) {
  check_inputs("attention_forward", in);
  check_plan_fits("attention_forward", in, plan);
  check_outputs("attention_forward", in, out);
  if (in.q.elements() == 0) return;
  const double scale = scale_or_default(in.scale, in.q.dim);
  with_errors_of("attention_forward", [&] {
    if (vector_kernels_accept(in.q)) {
      cpu::forward(in, scale, plan, out, executor);
    } else {
      reference::forward(in, scale, plan, out, executor);
    }
  });
}

void attention_forward(const AttentionInputs& in, const PlanOptions& options, const AttentionOutputs& out,
                       std::int32_t* keep, Executor& executor) {
  check_inputs("attention_forward", in);
  check_outputs("attention_forward", in, out);
  const PlanShape shape = shape_for(in.q, in.k, options);
  if (in.q.elements() == 0) return;
  const double scale = scale_or_default(in.scale, in.q.dim);
  if (vector_kernels_accept(in.q)) {
    with_errors_of("attention_forward", [&] { cpu::forward(in, scale, shape, options, out, keep, executor); });
    return;
  }
  std::vector<std::int32_t> own;
  if (keep == nullptr) {
    own = allocate_vector<std::int32_t>(list_elements(shape), "attention_forward: lists");
    keep = own.data();
  }
  make_plan_into(in.q, in.k, options, in.scale, keep, executor);
  attention_forward(in, PlanView{shape, keep}, out, executor);
}

void attention_backward(const AttentionInputs& in, const PlanView& plan, const AttentionSaved& saved,
                        const AttentionGradients& grads, Executor& executor) {
  check_inputs("attention_backward", in);
  check_plan_fits("attention_backward", in, plan);
  check_gradients("attention_backward", in, saved, grads);
  if (in.q.elements() == 0 && in.k.elements() == 0) return;
  const auto backward = vector_kernels_accept(in.q) ? cpu::backward : reference::backward;
  with_errors_of("attention_backward",
                 [&] { backward(in, scale_or_default(in.scale, in.q.dim), plan, saved, grads, executor); });
}

const char* chosen_kernel(const AttentionInputs& in) {
  check_inputs("chosen_kernel", in);
  return vector_kernels_accept(in.q) ? name_of_vector_kernel(in.q.dtype) : "reference";
}

}  // namespace hsattn
