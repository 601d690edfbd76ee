// How much of full attention's probability the tokens hold that other ways attend, on queries and keys of a real text.
#pragma once

#include <vector>

#include "lm/model/config.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

class HeldMass {
 public:
  /// `rows`: ways to attend, an entry for each layer each. `positions`: how many are looked at, evenly spread.
  HeldMass(std::vector<std::vector<AttentionOptions>> rows, Index positions);

  /// q [1, heads, n, dim], k [1, kv_heads, n, dim] of a layer that attends everything.
  void add(Index layer, const at::Tensor& q, const at::Tensor& k);
  /// [rows] averages over layers, heads and positions.
  std::vector<double> shares() const;

 private:
  std::vector<std::vector<AttentionOptions>> rows_;
  Index positions_;
  std::vector<double> sums_;  // [rows]
  Index count_ = 0;           // layers
};

}  // namespace hsattn::lm
