// The decoder.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "lm/model/attention.h"
#include "lm/model/config.h"
#include "lm/model/layers.h"

namespace hsattn::lm {

/// Weights of one block; matrices are [outputs, inputs].
struct Block {
  at::Tensor attention_norm;  // [width]
  at::Tensor qkv;             // [(heads + 2 kv_heads) * d, width]: queries, then keys, then values
  at::Tensor taps;            // [taps * (heads + kv_heads) * d], undefined without a convolution of queries and keys
  at::Tensor attention_out;   // [width, heads * d]
  at::Tensor mlp_norm;        // [width]
  at::Tensor gate_up;         // [2 * inner, width]: gate, then up
  at::Tensor down;            // [width, inner]
};

class Transformer {
 public:
  /// Weights drawn from `seed`. Throws InvalidArgument for a configuration that does not fit together.
  Transformer(const ModelConfig& config, Index seed);

  const ModelConfig& config() const { return config_; }
  AttentionStatistics& statistics() { return statistics_; }
  const at::Tensor& embedding() const { return embedding_; }
  /// Every weight with its name, in a fixed order.
  std::vector<std::pair<std::string, at::Tensor>> parameters() const;
  void set_checkpointing(bool on) { checkpointing_ = on; }
  /// The same weights with another attention. Throws InvalidArgument if that pools with parameters that these do not
  /// have.
  void set_attention(const AttentionOptions& attention);
  /// The nodes that a layer would attend with `attention`: those of its pooler, undefined if the pooling has no
  /// parameters. Throws InvalidArgument as set_attention() does.
  Pooled pooled(Index layer, const AttentionOptions& attention, const at::Tensor& k, const at::Tensor& v) const;
  /// Performer's features, unless they are these already.
  void draw_features(Index feature_seed);
  /// Called with each layer's q [B, H, n, d] and k, v [B, Hkv, n, d] (rotated) before they are attended.
  void set_probe(std::function<void(Index, const at::Tensor&, const at::Tensor&, const at::Tensor&)> probe) {
    probe_ = std::move(probe);
  }

  /// tokens [B, n] int64 -> [B * n, width], normalised: what the output embedding multiplies.
  at::Tensor hidden(const at::Tensor& tokens);
  /// Mean cross-entropy in nats; targets [B, n]. `rows`, if defined, are those of the B * n positions that count.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets, const at::Tensor& rows = {});

 private:
  void check_pooling(const AttentionOptions& attention) const;
  void share_projections();
  at::Tensor run_block(Index layer, const at::Tensor& x);
  at::Tensor attention_part(Index layer, const at::Tensor& x);

  ModelConfig config_;
  at::Tensor embedding_, final_norm_;
  std::vector<Block> blocks_;
  std::string pooling_;                  // that poolers_ are for
  std::vector<at::Tensor> poolers_;      // of pooling with parameters, flat: none, one for all layers, or one for each
  std::vector<at::Tensor> projections_;  // linformer's, as config.attention.sharing has them
  std::vector<AttentionTensors> attention_tensors_;  // of each layer
  RotaryTable rotary_;
  AttentionStatistics statistics_;
  bool checkpointing_ = false;
  std::function<void(Index, const at::Tensor&, const at::Tensor&, const at::Tensor&)> probe_;
};

}  // namespace hsattn::lm
