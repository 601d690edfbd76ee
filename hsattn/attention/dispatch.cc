#include "hsattn/attention/dispatch.h"

#include "hsattn/attention/checks.h"
#include "hsattn/base/buffer.h"
#include "hsattn/kernels/cpu/driver.h"
#include "hsattn/kernels/reference/reference.h"

namespace hsattn::dispatch {

bool vector_kernels_accept(const ConstView& q) { return q.dtype == DType::kFloat32; }

void select(const ConstView& q, const ConstView& k, const PlanShape& shape, const PlanOptions& options, double scale,
            std::int32_t* blocks, Executor& executor) {
  if (shape.list_elements() == 0) return;
  const auto select = vector_kernels_accept(q) ? cpu::select : reference::select;
  select(q, k, shape, options, scale, blocks, executor);
}

void forward(const AttentionInputs& in, const PlanView& plan, const AttentionOutputs& out, Executor& executor) {
  if (in.q.elements() == 0) return;
  const double scale = scale_or_default(in.scale, in.q.dim);
  if (vector_kernels_accept(in.q)) {
    cpu::forward(in, scale, plan, out, executor);
  } else {
    reference::forward(in, scale, plan, out, executor);
  }
}

void forward(const AttentionInputs& in, const PlanShape& shape, const PlanOptions& options, const AttentionOutputs& out,
             std::int32_t* keep, Executor& executor) {
  if (in.q.elements() == 0) return;
  const double scale = scale_or_default(in.scale, in.q.dim);
  if (vector_kernels_accept(in.q)) {
    cpu::forward(in, scale, shape, options, out, keep, executor);
    return;
  }
  std::vector<std::int32_t> own;
  if (keep == nullptr) {
    own = allocate_vector<std::int32_t>(shape.list_elements(), "attention_forward: lists");
    keep = own.data();
  }
  select(in.q, in.k, shape, options, scale, keep, executor);
  reference::forward(in, scale, {shape, keep}, out, executor);
}

void backward(const AttentionInputs& in, const PlanView& plan, const AttentionSaved& saved,
              const AttentionGradients& grads, Executor& executor) {
  if (in.q.elements() == 0 && in.k.elements() == 0) return;
  const auto backward = vector_kernels_accept(in.q) ? cpu::backward : reference::backward;
  backward(in, scale_or_default(in.scale, in.q.dim), plan, saved, grads, executor);
}

}  // namespace hsattn::dispatch
