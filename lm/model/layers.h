// The differentiable pieces of the model.
#pragma once

#include <functional>

#include "lm/model/torch.h"

namespace hsattn::lm {

/// Rotary angles: cos and sin of position * base^(-2i/d), each [tokens, d / 2], float32.
struct RotaryTable {
  at::Tensor cos, sin;
};
RotaryTable rotary_table(int64_t tokens, int64_t dim, double base);

/// x [B, n, heads, d]: rotates the pairs (i, i + d/2) of each head by its position's angle. Type of x.
at::Tensor rotate(const at::Tensor& x, const RotaryTable& table);

/// The taps that training starts from, flat, so that AdamW does not let them decay: a token's own weight is 1, and a
/// little noise makes every channel see the tokens before it in another way.
at::Tensor initial_taps(int64_t taps, int64_t channels, at::Generator& generator);

/// y[t] = sum over i of taps[i] * x[t - i], channel by channel, nothing before the first token. x [B, n, channels],
/// taps [taps * channels] -> [B, n, channels], type of x.
at::Tensor mix_in_time(const at::Tensor& x, const at::Tensor& taps);

/// x / rms(x) * weight over the last dimension, float32.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight);

/// [.., 2 h] -> [.., h]: silu(first half) * second half.
at::Tensor swiglu(const at::Tensor& gate_up);

/// Mean cross-entropy in nats of tied-output logits, computed in chunks of positions: no [T, vocabulary] tensor is
/// kept.
///   hidden [T, width], embedding [vocabulary, width], targets [T] int64 -> scalar
at::Tensor chunked_cross_entropy(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& targets);

/// The same per token and without gradient: [T].
at::Tensor token_losses(const at::Tensor& hidden, const at::Tensor& embedding, const at::Tensor& targets);

/// Runs `block` without keeping its intermediate tensors and once more in backward. The gradients of parameters that
/// `block` uses are accumulated where they always are; `x` must require a gradient.
at::Tensor recompute_in_backward(const std::function<at::Tensor(const at::Tensor&)>& block, const at::Tensor& x);

}  // namespace hsattn::lm
