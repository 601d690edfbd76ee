#include "hsattn/attention/attention.h"

#include "hsattn/attention/checks.h"
#include "hsattn/attention/dispatch.h"
#include "hsattn/base/buffer.h"
#include "hsattn/base/error.h"

namespace hsattn {
namespace {

PlanShape shape_for(const ConstView& q, const ConstView& k, const PlanOptions& options) {
  return plan_shape(options, q.dtype, q.batch, k.heads, q.tokens, k.tokens);
}

}  // namespace

void make_plan_into(const ConstView& q, const ConstView& k, const PlanOptions& options, std::optional<double> scale,
                    std::int32_t* blocks, Executor& executor, const std::optional<ConstView>& pooled_keys) {
  check_queries_and_keys("make_plan", q, k, scale);
  const PlanShape shape = shape_for(q, k, options);
  if (pooled_keys) {
    check_nodes("make_plan", "pooled k", *pooled_keys, k, shape.node);
    check_no_parts("make_plan", shape);
  }
  check_memory_for_lists("make_plan", blocks, shape.list_elements());
  dispatch::select(q, k, shape, options, scale_or_default(scale, q.dim), blocks, executor, pooled_keys);
}

Plan make_plan(const ConstView& q, const ConstView& k, const PlanOptions& options, std::optional<double> scale,
               Executor& executor, const std::optional<ConstView>& pooled_keys) {
  check_queries_and_keys("make_plan", q, k, scale);
  Plan plan{shape_for(q, k, options), {}};
  plan.blocks = allocate_vector<std::int32_t>(plan.shape.list_elements(), "make_plan: lists");
  make_plan_into(q, k, options, scale, plan.blocks.data(), executor, pooled_keys);
  return plan;
}

void attention_forward(const AttentionInputs& in, const PlanView& plan, const AttentionOutputs& out,
                       Executor& executor) {
  check_inputs("attention_forward", in);
  check_plan_fits("attention_forward", in, plan);
  check_outputs("attention_forward", in, out);
  dispatch::forward(in, plan, out, executor);
}

void attention_forward(const AttentionInputs& in, const PlanOptions& options, const AttentionOutputs& out,
                       std::int32_t* keep, Executor& executor) {
  check_inputs("attention_forward", in);
  const PlanShape shape = shape_for(in.q, in.k, options);
  check_pooled("attention_forward", in, shape);
  check_outputs("attention_forward", in, out);
  dispatch::forward(in, shape, options, out, keep, executor);
}

void attention_backward(const AttentionInputs& in, const PlanView& plan, const AttentionSaved& saved,
                        const AttentionGradients& grads, Executor& executor) {
  check_inputs("attention_backward", in);
  check_plan_fits("attention_backward", in, plan);
  check_saved_lse("attention_backward", in, saved.lse);
  check_gradients("attention_backward", in, saved, grads);
  check_gradients_of_pooled("attention_backward", in, plan.shape.far_field, saved, grads);
  dispatch::backward(in, plan, saved, grads, executor);
}

const char* chosen_kernel(const AttentionInputs& in) {
  check_inputs("chosen_kernel", in);
  return dispatch::kernel_name(in.q.dtype);
}

}  // namespace hsattn
