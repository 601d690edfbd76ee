// A pretrained decoder of the Llama family: tokens to logits, without gradients.
#pragma once

#include <atomic>
#include <memory>

#include "lm/pretrained/key_values.h"
#include "lm/pretrained/rotary.h"
#include "lm/pretrained/weights.h"

namespace hsattn::lm {

class Decoder {
 public:
  /// Takes all weights of `weights`, as `type`: float32 or bfloat16. Throws FileError or Unsupported.
  Decoder(const PretrainedConfig& config, const Weights& weights, at::ScalarType type);

  const PretrainedConfig& config() const { return config_; }
  /// Reads `tokens` [n], int64, behind those that `past` holds, and adds them to it: states [n, width] after the last
  /// norm. `length`: of the text that is being read, if this is a chunk of it; dynamic rotary scaling depends on it.
  /// `stop`, looked at before each layer: if it is true, undefined, and past.crop(past.tokens()) is as it was.
  at::Tensor hidden(const at::Tensor& tokens, KeyValues& past, Index length = 0,
                    const std::atomic<bool>* stop = nullptr);
  /// hidden [n, width] -> [n, vocabulary], float32.
  at::Tensor logits(const at::Tensor& hidden) const;

 private:
  // A matrix [outputs, inputs] and a bias [outputs], or none.
  struct Linear {
    at::Tensor weight;
    std::optional<at::Tensor> bias;
    void write(const at::Tensor& x, const at::Tensor& out) const;  // out = x weight^T + bias
    void add(const at::Tensor& x, const at::Tensor& out) const;    // out += x weight^T + bias
  };
  struct Layer {
    at::Tensor attention_norm, mlp_norm;
    at::Tensor query_norm, key_norm;  // [head_dim], or undefined
    Linear qkv, attention_out, gate_up, down;
  };
  // Attends what x [n, width] becomes: [n, heads * head_dim].
  at::Tensor attention_part(Index layer, const at::Tensor& x, const RotaryTable& rotary, KeyValues& past) const;
  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const;
  // Norms of heads, if the model has them, and rotary positions, in place: qkv [n, (heads + 2 kv_heads) * head_dim].
  void place(const Layer& layer, const RotaryTable& rotary, const at::Tensor& qkv) const;
  at::Tensor gated(const at::Tensor& gate_up) const;  // [n, 2 inner] -> [n, inner]

  PretrainedConfig config_;
  Rotary rotary_;
  at::Tensor embedding_, output_, final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace hsattn::lm
