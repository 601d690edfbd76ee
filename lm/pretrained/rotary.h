// Rotary positions of pretrained models.
#pragma once

#include "lm/model/layers.h"
#include "lm/pretrained/config.h"

namespace hsattn::lm {

/// Frequencies [dim / 2] in float32, with the operations of transformers, whose rounding matters at far positions:
/// angles are position times frequency. `tokens`, those of the sequence so far, counts for dynamic scaling.
at::Tensor rotary_frequencies(const RopeConfig& rope, Index dim, Index longest, Index tokens);

/// Makes tables of cos and sin for positions, keeping the last.
class Rotary {
 public:
  explicit Rotary(const PretrainedConfig& config)
      : rope_(config.rope), dim_(config.head_dim), longest_(config.longest) {}

  /// Of positions [first, first + count) in a sequence that is `tokens` long.
  RotaryTable table(Index first, Index count, Index tokens);

 private:
  RopeConfig rope_;
  Index dim_, longest_;
  Index made_for_ = -1;  // tokens that decided the frequencies
  RotaryTable all_;
};

}  // namespace hsattn::lm
