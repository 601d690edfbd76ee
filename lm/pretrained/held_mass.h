// How many tokens other ways attend, and how much of full attention's probability these hold, on queries and keys of a
// real text.
#pragma once

#include <vector>

#include "lm/model/config.h"
#include "lm/model/torch.h"
#include "lm/pretrained/allocation.h"

namespace hsattn::lm {

class HeldMass {
 public:
  /// `rows`: ways to attend, an entry for each layer each. `positions`: how many are looked at, evenly spread.
  HeldMass(std::vector<std::vector<AttentionOptions>> rows, Index positions);

  /// q [1, heads, n, dim], k [1, kv_heads, n, dim] of a layer that attends everything.
  void add(Index layer, const at::Tensor& q, const at::Tensor& k);
  /// [rows], averages over layers and heads; the share of the probability also over positions.
  std::vector<HeldShare> shares() const;

 private:
  std::vector<std::vector<AttentionOptions>> rows_;
  Index positions_;
  std::vector<HeldShare> sums_;  // [rows], over layers
  Index count_ = 0;              // layers
};

}  // namespace hsattn::lm
