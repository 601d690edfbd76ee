#include "hsattn/attention/attention.h"
#include "torch_ops/executor.h"
#include "torch_ops/ops.h"
#include "torch_ops/sequences.h"

namespace hsattn::torch_ops {
namespace {

PlanShape shape_for(const PlanOptions& options, const Tensor& q, const Tensor& k) {
  return plan_shape(options, dtype_of("attention", "q", q), q.size(0), k.size(1), q.size(2), k.size(2));
}

Tensor new_lists(const Tensor& like, const PlanShape& shape) {
  return new_tensor(like, shape_of_lists(shape), ScalarType::Int);
}

Tensor no_lists(const Tensor& like) { return new_tensor(like, {0}, ScalarType::Int); }

// What the caller pooled, as the kernels read it.
struct Pooled {
  Tensor k, v;
  ConstNodes views() const { return {const_view(k), const_view(v)}; }
};

std::optional<Pooled> readable_pooled(const char* who, const std::optional<Tensor>& k, const std::optional<Tensor>& v) {
  check(k.has_value() == v.has_value(), who, ": one of pooled_k and pooled_v is given; both or none must be");
  if (!k || !v) return {};
  return Pooled{readable(who, "pooled_k", *k), readable(who, "pooled_v", *v)};
}

std::optional<ConstNodes> views_of(const std::optional<Pooled>& pooled) {
  return pooled ? std::optional(pooled->views()) : std::nullopt;
}

// What a forward pass leaves; `kept` only where lists are to be kept.
struct Forward {
  Tensor o, lse;
  std::optional<Tensor> kept;
};

Forward forward(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given, const std::optional<Tensor>& plan,
                const std::string& pattern, bool causal, const Budgets& budgets, std::optional<double> scale,
                bool keep_plan, const std::optional<Tensor>& sequences, const std::optional<Tensor>& pooled_k,
                const std::optional<Tensor>& pooled_v) {
  constexpr const char* kWho = "attention_forward";
  const PlanOptions options = options_from(pattern, causal, budgets);
  const Tensor q = readable(kWho, "q", q_given);
  const Tensor k = readable(kWho, "k", k_given);
  const Tensor v = readable(kWho, "v", v_given);
  const std::optional<Pooled> pooled = readable_pooled(kWho, pooled_k, pooled_v);
  const PlanShape shape = shape_for(options, q, k);
  Forward made{sequences ? new_token_major(q) : new_like(q),
               new_tensor(q, {q.size(0), q.size(1), q.size(2)}, lse_type_of(q)),
               {}};
  const AttentionInputs in{const_view(q), const_view(k), const_view(v), scale, views_of(pooled)};
  const AttentionOutputs out{view(made.o), made.lse.mutable_data_ptr()};
  TorchExecutor executor;

  const bool keep = keep_plan && shape.slots() > 0;
  if (keep && plan) made.kept = torch::stable::clone(*plan);
  if (sequences) {
    const SequencePlans each(kWho, *sequences, options, q, k);
    if (plan) {
      hsattn::attention_forward(in, each.sequences, each.views(kWho, *plan), out, executor);
    } else {
      if (keep) made.kept = each.new_lists(q, shape);
      hsattn::attention_forward(in, each.sequences, options, out, keep ? ids(*made.kept) : nullptr, executor);
    }
  } else if (plan) {
    hsattn::attention_forward(in, plan_view(kWho, shape, *plan), out, executor);
  } else {
    if (keep) made.kept = new_lists(q, shape);
    hsattn::attention_forward(in, options, out, keep ? ids(*made.kept) : nullptr, executor);
  }
  return made;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                     const std::optional<Tensor>& plan, const std::string& pattern,
                                                     bool causal, const Budgets& budgets, std::optional<double> scale,
                                                     bool keep_plan, const std::optional<Tensor>& sequences,
                                                     const std::optional<Tensor>& pooled_k,
                                                     const std::optional<Tensor>& pooled_v) {
  const Forward made =
      forward(q, k, v, plan, pattern, causal, budgets, scale, keep_plan, sequences, pooled_k, pooled_v);
  return {made.o, made.lse, made.kept ? *made.kept : no_lists(q)};
}

std::tuple<Tensor, Tensor> attention_no_grad(const Tensor& q, const Tensor& k, const Tensor& v,
                                             const std::optional<Tensor>& plan, const std::string& pattern, bool causal,
                                             const Budgets& budgets, std::optional<double> scale,
                                             const std::optional<Tensor>& sequences,
                                             const std::optional<Tensor>& pooled_k,
                                             const std::optional<Tensor>& pooled_v) {
  const Forward made = forward(q, k, v, plan, pattern, causal, budgets, scale, false, sequences, pooled_k, pooled_v);
  return {made.o, made.lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& dout_given, const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
    const Tensor& o_given, const Tensor& lse_given, const Tensor& kept, const std::string& pattern, bool causal,
    const Budgets& budgets, std::optional<double> scale, const std::optional<Tensor>& sequences,
    const std::optional<Tensor>& pooled_k, const std::optional<Tensor>& pooled_v) {
  constexpr const char* kWho = "attention_backward";
  const PlanOptions options = options_from(pattern, causal, budgets);
  const Tensor q = readable(kWho, "q", q_given);
  const Tensor k = readable(kWho, "k", k_given);
  const Tensor v = readable(kWho, "v", v_given);
  const Tensor o = readable(kWho, "o", o_given);
  const Tensor dout = readable(kWho, "dout", dout_given);
  const Tensor lse = readable_lse(kWho, lse_given, q);
  const std::optional<Pooled> pooled = readable_pooled(kWho, pooled_k, pooled_v);
  const PlanShape shape = shape_for(options, q, k);
  TorchExecutor executor;

  Tensor lists = kept;
  if (kept.numel() == 0 && shape.slots() > 0) {
    lists = make_plan(q, k, pattern, causal, budgets, scale, sequences, pooled_k);
  }
  const auto new_gradient = sequences ? new_token_major : new_like;
  const Tensor dq = new_gradient(q), dk = new_gradient(k), dv = new_gradient(v);
  const bool wants_pooled = pooled && shape.far_field;
  const Tensor dpooled_k = wants_pooled ? new_like(pooled->k) : new_tensor(q, {0});
  const Tensor dpooled_v = wants_pooled ? new_like(pooled->v) : new_tensor(q, {0});
  const AttentionInputs in{const_view(q), const_view(k), const_view(v), scale, views_of(pooled)};
  const AttentionSaved saved{const_view(dout), const_view(o), lse.const_data_ptr()};
  AttentionGradients grads{view(dq), view(dk), view(dv)};
  if (wants_pooled) grads.dpooled = Nodes{view(dpooled_k), view(dpooled_v)};
  if (sequences) {
    const SequencePlans each(kWho, *sequences, options, q, k);
    hsattn::attention_backward(in, each.sequences, each.views(kWho, lists), saved, grads, executor);
  } else {
    hsattn::attention_backward(in, plan_view(kWho, shape, lists), saved, grads, executor);
  }
  return {dq, dk, dv, dpooled_k, dpooled_v};
}

Tensor make_plan(const Tensor& q_given, const Tensor& k_given, const std::string& pattern, bool causal,
                 const Budgets& budgets, std::optional<double> scale, const std::optional<Tensor>& sequences,
                 const std::optional<Tensor>& pooled_k) {
  const PlanOptions options = options_from(pattern, causal, budgets);
  const Tensor q = readable("make_plan", "q", q_given);
  const Tensor k = readable("make_plan", "k", k_given);
  const PlanShape shape = shape_for(options, q, k);
  TorchExecutor executor;
  std::optional<ConstView> pooled;
  const Tensor nodes = pooled_k ? readable("make_plan", "pooled_k", *pooled_k) : k;
  if (pooled_k) pooled = const_view(nodes);
  if (sequences) {
    const SequencePlans each("make_plan", *sequences, options, q, k);
    const Tensor lists = each.new_lists(q, shape);
    make_plans_into(const_view(q), const_view(k), each.sequences, options, scale, ids(lists), executor, pooled);
    return lists;
  }
  const Tensor lists = new_lists(q, shape);
  make_plan_into(const_view(q), const_view(k), options, scale, ids(lists), executor, pooled);
  return lists;
}

}  // namespace hsattn::torch_ops
