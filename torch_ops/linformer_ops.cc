// Linformer: keys and values projected along the sequence.
#include "hsattn/baselines/linformer.h"
#include "torch_ops/executor.h"
#include "torch_ops/ops.h"
#include "torch_ops/sequences.h"

namespace hsattn::torch_ops {
namespace {

// [rank, longest] as the kernels read it: float32, or float64 beside float64 tensors.
Tensor readable_projection(const char* who, const char* name, const Tensor& given, const Tensor& q) {
  check_on_cpu(who, name, given);
  check(given.dim() == 2 && given.scalar_type() == lse_type_of(q), who, ": ", name, " has shape ", shape_of(given),
        " and type ", torch::headeronly::toString(given.scalar_type()), "; it must be [rank, longest] and ",
        torch::headeronly::toString(lse_type_of(q)));
  return torch::stable::contiguous(given);
}

LinformerOptions options_of(const char* who, const Tensor& keys, const Tensor& values, Index segment, bool causal) {
  check(keys.size(0) == values.size(0) && keys.size(1) == values.size(1), who, ": the projection of keys has shape ",
        shape_of(keys), ", that of values ", shape_of(values), "; they must be equal");
  return {{keys.const_data_ptr(), values.const_data_ptr(), keys.size(0), keys.size(1)}, segment, causal};
}

}  // namespace

std::tuple<Tensor, Tensor> linformer_forward(const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
                                             const Tensor& project_keys, const Tensor& project_values, Index segment,
                                             bool causal, std::optional<double> scale,
                                             const std::optional<Tensor>& sequences) {
  constexpr const char* kWho = "linformer_forward";
  const Tensor q = readable(kWho, "q", q_given), k = readable(kWho, "k", k_given), v = readable(kWho, "v", v_given);
  const Tensor e = readable_projection(kWho, "project_keys", project_keys, q);
  const Tensor f = readable_projection(kWho, "project_values", project_values, q);
  const LinformerOptions options = options_of(kWho, e, f, segment, causal);
  const Tensor o = sequences ? new_token_major(q) : new_like(q);
  const Tensor lse = new_tensor(q, {q.size(0), q.size(1), q.size(2)}, lse_type_of(q));
  const AttentionInputs in{const_view(q), const_view(k), const_view(v), scale};
  const AttentionOutputs out{view(o), lse.mutable_data_ptr()};
  TorchExecutor executor;
  if (sequences) {
    hsattn::linformer_forward(in, sequences_from(kWho, *sequences, q, k), options, out, executor);
  } else {
    hsattn::linformer_forward(in, options, out, executor);
  }
  return {o, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> linformer_backward(
    const Tensor& dout_given, const Tensor& q_given, const Tensor& k_given, const Tensor& v_given,
    const Tensor& o_given, const Tensor& lse_given, const Tensor& project_keys, const Tensor& project_values,
    Index segment, bool causal, std::optional<double> scale, const std::optional<Tensor>& sequences) {
  constexpr const char* kWho = "linformer_backward";
  const Tensor q = readable(kWho, "q", q_given), k = readable(kWho, "k", k_given), v = readable(kWho, "v", v_given);
  const Tensor o = readable(kWho, "o", o_given), dout = readable(kWho, "dout", dout_given);
  const Tensor lse = readable_lse(kWho, lse_given, q);
  const Tensor e = readable_projection(kWho, "project_keys", project_keys, q);
  const Tensor f = readable_projection(kWho, "project_values", project_values, q);
  const LinformerOptions options = options_of(kWho, e, f, segment, causal);
  const auto new_gradient = sequences ? new_token_major : new_like;
  const Tensor dq = new_gradient(q), dk = new_gradient(k), dv = new_gradient(v);
  const Tensor de = new_tensor(e, {e.size(0), e.size(1)}), df = new_tensor(f, {f.size(0), f.size(1)});
  const AttentionInputs in{const_view(q), const_view(k), const_view(v), scale};
  const AttentionSaved saved{const_view(dout), const_view(o), lse.const_data_ptr()};
  const AttentionGradients grads{view(dq), view(dk), view(dv)};
  const ProjectionGradients projection_grads{de.mutable_data_ptr(), df.mutable_data_ptr()};
  TorchExecutor executor;
  if (sequences) {
    hsattn::linformer_backward(in, sequences_from(kWho, *sequences, q, k), options, saved, grads, projection_grads,
                               executor);
  } else {
    hsattn::linformer_backward(in, options, saved, grads, projection_grads, executor);
  }
  return {dq, dk, dv, de, df};
}

}  // namespace hsattn::torch_ops
