// Keys and values of one sequence, layer by layer, and the attention over them.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "hsattn/cache/cache.h"
#include "lm/model/config.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

/// What a layer's attention is given, and what its result passes.
struct LayerInputs {
  Index layer = 0;
  at::Tensor states;         ///< [n, width] that the layer reads, before its norm
  at::Tensor q, k, v;        ///< as KeyValues::attend() takes them
  at::Tensor attention_out;  ///< [width, heads * dim]: the matrix whose products are added to the states
};

/// The library's patterns keep a KeyValueCache; torch's attention plain tensors.
class KeyValues {
 public:
  /// One entry of `attention` for each layer; see layer_attention().
  explicit KeyValues(std::vector<AttentionOptions> attention);

  /// Tokens that all layers hold.
  Index tokens() const { return tokens_; }
  /// Tensors get room for so many tokens, so that appending up to them copies nothing. The cache has no need of it.
  void reserve(Index tokens) { reserved_ = std::max(reserved_, tokens); }
  /// Forgets all tokens from `tokens` on.
  void crop(Index tokens);
  /// Appends k and v [1, kv_heads, n, dim] to a layer and attends q [1, heads, n, dim], the queries of the same tokens;
  /// the last stride of each is 1. Returns o [1, heads, n, dim].
  at::Tensor attend(Index layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
  /// Memory of all that is held.
  Index bytes() const;
  /// Is shown what the decoder attends, before it does.
  using Observer = std::function<void(const LayerInputs&)>;
  void observe(Observer observer) { observer_ = std::move(observer); }
  void show(const LayerInputs& layer) const {
    if (observer_) observer_(layer);
  }
  /// Called when all layers have appended `n` tokens.
  void advance(Index n) { tokens_ += n; }

 private:
  struct Layer {
    AttentionOptions attention;
    std::optional<KeyValueCache> cache;
    at::Tensor k, v;  // [1, kv_heads, room, dim]
  };
  void append(Layer& layer, const at::Tensor& k, const at::Tensor& v) const;

  std::vector<Layer> layers_;
  Index tokens_ = 0, reserved_ = 0;
  Observer observer_;
};

}  // namespace hsattn::lm
