// Attention of other papers that has kernels of its own, by the dispatcher ops.
#pragma once

#include "lm/model/config.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

/// What a layer's attention holds besides queries, keys and values.
struct AttentionTensors {
  at::Tensor features;                      ///< performer: [features, d], float32, drawn, not trained
  at::Tensor project_keys, project_values;  ///< linformer: [rank, longest], parameters, perhaps the same
  at::Tensor pooler;                        ///< hsa: parameters of a pooling that has some, flat
};

/// Performer's features of a layer: a function of the options alone.
at::Tensor performer_features(const AttentionOptions& options, Index layer, Index head_dim);

/// Tokens that a position attends on average when all `tokens` are given at once.
double average_attended_tokens(const AttentionOptions& options, Index tokens);

/// Causal attention of one of options.baseline(). q [B, H, n, d], k and v [B, Hkv, n, d] of one type -> [B, H, n, d].
/// Differentiable.
at::Tensor baseline_attention(const AttentionOptions& options, const AttentionTensors& tensors, const at::Tensor& q,
                              const at::Tensor& k, const at::Tensor& v);

/// Forward and backward of linear's and performer's op without autograd, causal; no features: linear.
at::Tensor linear_op_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const std::optional<at::Tensor>& features);
std::tuple<at::Tensor, at::Tensor, at::Tensor> linear_op_backward(const at::Tensor& dout, const at::Tensor& q,
                                                                  const at::Tensor& k, const at::Tensor& v,
                                                                  const at::Tensor& o,
                                                                  const std::optional<at::Tensor>& features);

}  // namespace hsattn::lm
