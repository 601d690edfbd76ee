#include "lm/experiments/cost.h"

#include "lm/model/config.h"

namespace hsattn::lm {
namespace {

constexpr double kStartupMinutes = 3.0 / 60;  // loading torch, reading text, saving, evaluating a little

}  // namespace

double expected_minutes(const Preset& preset, const ModelSize& m, Index tokens, double attended, double passes) {
  ModelConfig config;
  config.layers = m.layers, config.width = m.width, config.heads = m.heads, config.vocabulary = m.vocabulary;
  config.taps = m.taps;
  const double weights = 2 * static_cast<double>(config.parameters());
  const double attention = 4 * static_cast<double>(m.layers * m.width) * attended;
  return kStartupMinutes + static_cast<double>(tokens) * passes * (weights + attention) / preset.speed / 60;
}

}  // namespace hsattn::lm
