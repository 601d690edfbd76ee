#include "hsattn/attention/dispatch.h"

#include <algorithm>
#include <new>

#include "hsattn/attention/checks.h"
#include "hsattn/base/buffer.h"
#include "hsattn/base/cpu.h"
#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/kernels/cpu/driver.h"
#include "hsattn/kernels/reference/reference.h"
#include "hsattn/plan/list_rule.h"

namespace hsattn::dispatch {
namespace {

// The vector kernels take all types but float64, the reference everything.
bool vector_kernels_accept(const ConstView& q) { return q.dtype != DType::kFloat64; }

constexpr const char* kLists = "lists";  // of a tile

// Fills `blocks` by a rule, some positions a task.
void list_by_rule(const PlanShape& shape, const PlanOptions& options, std::int32_t* blocks, Executor& executor) {
  constexpr Index kTask = 512;  // positions of a head
  const ListRule rule(shape, options);
  const Index chunks = ceil_div(shape.queries, kTask);
  executor.run(shape.batch * shape.kv_heads * chunks, [&](Index task) {
    const Index head = task / chunks, first = task % chunks * kTask;
    rule.write(head % shape.kv_heads, first, std::min(kTask, shape.queries - first),
               blocks + (head * shape.queries + first) * shape.slots());
  });
}

}  // namespace

const char* kernel_name(DType type) {
  if (type == DType::kFloat64) return "reference";
  const Isa isa = selected_isa();
  return name_of(type == DType::kBFloat16 ? isa : without_pair_products(isa));
}

void select(const ConstView& q, const ConstView& k, const PlanShape& shape, const PlanOptions& options, double scale,
            std::int32_t* blocks, Executor& executor, const std::optional<ConstView>& pooled_keys) {
  if (shape.list_elements() == 0) return;
  with_memory_errors("make_plan", kLists, [&] {
    if (lists_by_rule(options.pattern)) return list_by_rule(shape, options, blocks, executor);
    if (!vector_kernels_accept(q)) return reference::select(q, k, shape, options, scale, blocks, executor, pooled_keys);
    cpu::select(q, k, shape, options, scale, blocks, executor, pooled_keys);
  });
}

void forward(const AttentionInputs& in, const PlanView& plan, const AttentionOutputs& out, Executor& executor) {
  if (in.q.elements() == 0) return;
  const double scale = scale_or_default(in.scale, in.q.dim);
  with_memory_errors("attention_forward", kLists, [&] {
    if (!vector_kernels_accept(in.q)) return reference::forward(in, scale, plan, out, executor);
    cpu::forward(in, scale, plan, out, executor);
  });
}

void forward(const AttentionInputs& in, const PlanShape& shape, const PlanOptions& options, const AttentionOutputs& out,
             std::int32_t* keep, Executor& executor) {
  if (in.q.elements() == 0) return;
  const double scale = scale_or_default(in.scale, in.q.dim);
  if (vector_kernels_accept(in.q)) {
    with_memory_errors("attention_forward", kLists,
                       [&] { cpu::forward(in, scale, shape, options, out, keep, executor); });
    return;
  }
  std::vector<std::int32_t> own;
  if (keep == nullptr) {
    own = allocate_vector<std::int32_t>(shape.list_elements(), "attention_forward: lists");
    keep = own.data();
  }
  const std::optional<ConstView> pooled_keys = in.pooled ? std::optional(in.pooled->k) : std::nullopt;
  if (shape.tail == 0 || shape.slots() == 0) {
    select(in.q, in.k, shape, options, scale, keep, executor, pooled_keys);
    return forward(in, PlanView{shape, keep}, out, executor);
  }
  reference::Tails tails;
  with_memory_errors("attention_forward", kLists, [&] {
    reference::select(in.q, in.k, shape, options, scale, keep, executor, pooled_keys, &tails);
    reference::forward(in, scale, PlanView{shape, keep}, out, executor, &tails);
  });
}

void backward(const AttentionInputs& in, const PlanView& plan, const AttentionSaved& saved,
              const AttentionGradients& grads, Executor& executor) {
  if (in.q.elements() == 0 && in.k.elements() == 0) return;
  const auto backward = vector_kernels_accept(in.q) ? cpu::backward : reference::backward;
  with_memory_errors("attention_backward", kLists,
                     [&] { backward(in, scale_or_default(in.scale, in.q.dim), plan, saved, grads, executor); });
}

}  // namespace hsattn::dispatch
