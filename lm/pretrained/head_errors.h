// What budgets cost each key/value head of a pretrained model: by how much its sparse attention differs from full.
#pragma once

#include <vector>

#include "lm/pretrained/allocation.h"
#include "lm/pretrained/key_values.h"

namespace hsattn::lm {

class HeadErrors {
 public:
  /// `layers`: options of each layer, of which top_k is replaced by each of `top_k`, ascending.
  HeadErrors(std::vector<AttentionOptions> layers, std::vector<Index> top_k);

  /// Measures a layer, in float32.
  void add(const LayerInputs& layer);
  /// [layers][kv_heads]; a layer that was not added has no heads.
  const std::vector<std::vector<BudgetCurve>>& curves() const { return curves_; }

 private:
  std::vector<AttentionOptions> layers_;
  std::vector<Index> top_k_;
  std::vector<std::vector<BudgetCurve>> curves_;
};

}  // namespace hsattn::lm
