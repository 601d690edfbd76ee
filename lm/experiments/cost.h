// How long a run should take: arithmetic over the speed that the preset expects. No torch here.
#pragma once

#include "lm/experiments/presets.h"

namespace hsattn::lm {

/// Minutes of `tokens` tokens in training windows of `context`, attending `attended` tokens each; `passes` is 3 for
/// training (forward and twice its cost backward), 1 for reading.
double expected_minutes(const Preset& preset, const ModelSize& model, Index tokens, double attended, double passes);

}  // namespace hsattn::lm
