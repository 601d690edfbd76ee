#include "lm/model/baselines.h"

#include <algorithm>

#include "lm/model/ops.h"

namespace hsattn::lm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Three = std::tuple<Tensor, Tensor, Tensor>;

std::optional<Tensor> optional(const Tensor& tensor) {
  return tensor.defined() ? std::optional<Tensor>(tensor) : std::nullopt;
}

struct LinearAttention : Function<LinearAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::optional<Tensor>& features) {
    at::AutoDispatchBelowAutograd below;
    const Tensor o = linear_op_forward(q, k, v, features);
    ctx->save_for_backward({q, k, v, o, features.value_or(Tensor())});
    return o;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    at::AutoDispatchBelowAutograd below;
    const auto [dq, dk, dv] = linear_op_backward(grads[0], saved[0], saved[1], saved[2], saved[3], optional(saved[4]));
    return {dq, dk, dv, Tensor()};
  }
};

std::tuple<Tensor, Tensor> linformer_op_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                const Tensor& project_keys, const Tensor& project_values,
                                                Index segment) {
  using Signature =
      std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t,
                                 bool, std::optional<double>, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::linformer_forward");
  return op.call(q, k, v, project_keys, project_values, segment, /*causal=*/true, std::nullopt, std::nullopt);
}

using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

Five linformer_op_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                           const Tensor& lse, const Tensor& project_keys, const Tensor& project_values, Index segment) {
  using Signature =
      Five(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
           const Tensor&, int64_t, bool, std::optional<double>, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::linformer_backward");
  return op.call(dout, q, k, v, o, lse, project_keys, project_values, segment, /*causal=*/true, std::nullopt,
                 std::nullopt);
}

struct LinformerAttention : Function<LinformerAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& project_keys, const Tensor& project_values, Index segment) {
    at::AutoDispatchBelowAutograd below;
    const auto [o, lse] = linformer_op_forward(q, k, v, project_keys, project_values, segment);
    ctx->save_for_backward({q, k, v, o, lse, project_keys, project_values});
    ctx->saved_data["segment"] = segment;
    return o;
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    at::AutoDispatchBelowAutograd below;
    const auto [dq, dk, dv, dkeys, dvalues] =
        linformer_op_backward(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], saved[6],
                              ctx->saved_data["segment"].toInt());
    return {dq, dk, dv, dkeys, dvalues, Tensor()};
  }
};

}  // namespace

Tensor performer_features(const AttentionOptions& options, Index layer, Index head_dim) {
  using Signature = void(Tensor&, int64_t);
  static const auto op = find_op<Signature>("hsattn::draw_features");
  constexpr Index kMostLayers = 1000;  // see check_model_config()
  Tensor features = at::empty({options.features > 0 ? options.features : 2 * head_dim, head_dim}, at::kFloat);
  op.call(features, options.feature_seed * kMostLayers + layer);
  return features;
}

double average_attended_tokens(const AttentionOptions& options, Index tokens) {
  double sum = 0;
  for (Index p = 0; p < tokens; ++p) {
    const bool whole = options.attention != "linformer";
    sum += static_cast<double>(whole ? p + 1 : p / options.segment * options.rank + p % options.segment + 1);
  }
  return sum / static_cast<double>(std::max<Index>(tokens, 1));
}

Tensor linear_op_forward(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& features) {
  using Signature = Tensor(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, bool,
                           std::optional<double>, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::linear_attention_forward");
  return op.call(q, k, v, features, /*causal=*/true, std::nullopt, std::nullopt);
}

Three linear_op_backward(const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o,
                         const std::optional<Tensor>& features) {
  using Signature = Three(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          const std::optional<Tensor>&, bool, std::optional<double>, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::linear_attention_backward");
  return op.call(dout, q, k, v, o, features, /*causal=*/true, std::nullopt, std::nullopt);
}

Tensor baseline_attention(const AttentionOptions& options, const AttentionTensors& tensors, const Tensor& q,
                          const Tensor& k, const Tensor& v) {
  if (options.attention != "linformer") return LinearAttention::apply(q, k, v, optional(tensors.features));
  check_context(options, q.size(2));
  check(tensors.project_keys.defined(), "attention is linformer, but the model was trained without its projections");
  return LinformerAttention::apply(q, k, v, tensors.project_keys, tensors.project_values, options.segment);
}

}  // namespace hsattn::lm
