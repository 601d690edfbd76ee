// Linear attention: feature maps in the place of the softmax.
#include "hsattn/baselines/linear.h"
#include "torch_ops/executor.h"
#include "torch_ops/ops.h"
#include "torch_ops/sequences.h"

namespace hsattn::torch_ops {
namespace {

// Performer's features [features, dim], float32, or elu + 1. Keeps the tensor that the map points into.
class MapOf {
 public:
  MapOf(const char* who, const std::optional<Tensor>& features, const Tensor& q) {
    if (!features) return;
    check_on_cpu(who, "features", *features);
    check(features->scalar_type() == ScalarType::Float && features->dim() == 2 && features->size(1) == q.size(3), who,
          ": features has shape ", shape_of(*features), " and type ",
          torch::headeronly::toString(features->scalar_type()), "; it must be [features, ", q.size(3),
          "] and Float (float32)");
    rows_ = torch::stable::contiguous(*features);
    map_ = {static_cast<const float*>(rows_->const_data_ptr()), rows_->size(0)};
  }

  operator const FeatureMap&() const { return map_; }

 private:
  std::optional<Tensor> rows_;
  FeatureMap map_;
};

std::vector<Index> state_shape(const Tensor& k, const FeatureMap& map, const std::optional<Tensor>& sequences) {
  return {sequences ? sequences->size(0) : k.size(0), k.size(1), map.count(k.size(3)) + 1, k.size(3) + 1};
}

void check_state(const Tensor& state, const std::vector<Index>& shape, ScalarType type) {
  bool fits = state.dim() == 4 && state.scalar_type() == type;
  for (Index i = 0; fits && i < 4; ++i) fits = state.size(i) == shape[static_cast<std::size_t>(i)];
  check_on_cpu("linear_attention_step", "state", state);
  check(fits, "linear_attention_step: state has shape ", shape_of(state), " and type ",
        torch::headeronly::toString(state.scalar_type()), "; for these tensors it must be [", shape[0], ", ", shape[1],
        ", ", shape[2], ", ", shape[3], "] and ", torch::headeronly::toString(type));
}

}  // namespace

Tensor linear_attention_forward(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
                                const std::optional<Tensor>& features, bool causal, std::optional<double> scale,
                                const std::optional<Tensor>& sequences) {
  constexpr const char* kWho = "linear_attention_forward";
  const Tensor q = readable(kWho, "q", q_given), k = readable(kWho, "k", k_given), v = readable(kWho, "v", v_given);
  const MapOf map(kWho, features, q);
  const Tensor o = sequences ? new_token_major(q) : new_like(q);
  const AttentionInputs in{const_view(q), const_view(k), const_view(v), scale};
  TorchExecutor executor;
  if (sequences) {
    hsattn::linear_attention_forward(in, sequences_from(kWho, *sequences, q, k), {map, causal}, view(o), executor);
  } else {
    hsattn::linear_attention_forward(in, {map, causal}, view(o), executor);
  }
  return o;
}

std::tuple<Tensor, Tensor, Tensor> linear_attention_backward(const Tensor& dout_given, const Tensor& q_given,
                                                             const Tensor& k_given, const Tensor& v_given,
                                                             const Tensor& o_given,
                                                             const std::optional<Tensor>& features, bool causal,
                                                             std::optional<double> scale,
                                                             const std::optional<Tensor>& sequences) {
  constexpr const char* kWho = "linear_attention_backward";
  const Tensor q = readable(kWho, "q", q_given), k = readable(kWho, "k", k_given), v = readable(kWho, "v", v_given);
  const Tensor o = readable(kWho, "o", o_given), dout = readable(kWho, "dout", dout_given);
  const MapOf map(kWho, features, q);
  const auto new_gradient = sequences ? new_token_major : new_like;
  const Tensor dq = new_gradient(q), dk = new_gradient(k), dv = new_gradient(v);
  const AttentionInputs in{const_view(q), const_view(k), const_view(v), scale};
  const AttentionGradients grads{view(dq), view(dk), view(dv)};
  TorchExecutor executor;
  if (sequences) {
    hsattn::linear_attention_backward(in, sequences_from(kWho, *sequences, q, k), {map, causal}, const_view(dout),
                                      const_view(o), grads, executor);
  } else {
    hsattn::linear_attention_backward(in, {map, causal}, const_view(dout), const_view(o), grads, executor);
  }
  return {dq, dk, dv};
}

std::tuple<Tensor, Tensor> linear_attention_step(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
                                                 const std::optional<Tensor>& features, std::optional<double> scale,
                                                 const std::optional<Tensor>& state,
                                                 const std::optional<Tensor>& sequences) {
  constexpr const char* kWho = "linear_attention_step";
  const Tensor q = readable(kWho, "q", q_given), k = readable(kWho, "k", k_given), v = readable(kWho, "v", v_given);
  const MapOf map(kWho, features, q);
  std::vector<Sequence> parts;
  if (sequences) parts = sequences_from(kWho, *sequences, q, k);
  const std::vector<Index> shape = state_shape(k, map, sequences);
  const Tensor o = sequences ? new_token_major(q) : new_like(q), after = new_tensor(q, shape, lse_type_of(q));
  std::optional<Tensor> before;
  if (state) {
    check_state(*state, shape, lse_type_of(q));
    before = torch::stable::contiguous(*state);
  }
  const AttentionInputs in{const_view(q), const_view(k), const_view(v), scale};
  const LinearState states{before ? before->const_data_ptr() : nullptr, after.mutable_data_ptr()};
  TorchExecutor executor;
  if (sequences) {
    hsattn::linear_attention_step(in, parts, map, states, view(o), executor);
  } else {
    hsattn::linear_attention_step(in, map, states, view(o), executor);
  }
  return {o, after};
}

void draw_features(const Tensor& out, Index seed) {
  check_on_cpu("draw_features", "out", out);
  check(out.dim() == 2 && out.scalar_type() == ScalarType::Float && out.is_contiguous(),
        "draw_features: out has shape ", shape_of(out), " and type ", torch::headeronly::toString(out.scalar_type()),
        "; it must be [features, dim], Float (float32), contiguous");
  const std::vector<float> rows = hsattn::draw_features(out.size(0), out.size(1), static_cast<std::uint64_t>(seed));
  std::copy(rows.begin(), rows.end(), static_cast<float*>(out.mutable_data_ptr()));
}

}  // namespace hsattn::torch_ops
