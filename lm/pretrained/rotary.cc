#include "lm/pretrained/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace hsattn::lm {
namespace {

using at::Tensor;

// Llama 3.1: long waves are stretched by the factor, short ones stay, those between are blended.
Tensor llama3(const RopeConfig& rope, const Tensor& frequency) {
  const double longest_wave = rope.original_length / rope.low_frequency_factor;
  const double shortest_wave = rope.original_length / rope.high_frequency_factor;
  const Tensor wave = 2 * std::numbers::pi / frequency;
  const Tensor stretched = frequency / rope.factor;
  const Tensor blend = (rope.original_length / wave - rope.low_frequency_factor) /
                       (rope.high_frequency_factor - rope.low_frequency_factor);
  const Tensor between = (1 - blend) * stretched + blend * frequency;
  return at::where(wave > longest_wave, stretched, at::where(wave < shortest_wave, frequency, between));
}

}  // namespace

Tensor rotary_frequencies(const RopeConfig& rope, Index dim, Index longest, Index tokens) {
  double base = rope.base;
  if (rope.type == RopeConfig::Type::kDynamic) {
    const double length = static_cast<double>(std::max(tokens, longest)), made_for = static_cast<double>(longest);
    const auto d = static_cast<double>(dim);
    base *= std::pow(rope.factor * length / made_for - (rope.factor - 1), d / (d - 2));
  }
  Tensor frequency = 1.0 / at::pow(base, at::arange(0, dim, 2, at::kFloat) / static_cast<double>(dim));
  switch (rope.type) {
    case RopeConfig::Type::kDefault:
    case RopeConfig::Type::kDynamic:
      return frequency;
    case RopeConfig::Type::kLinear:
      return frequency / rope.factor;
    case RopeConfig::Type::kLlama3:
      return llama3(rope, frequency);
  }
  return frequency;
}

RotaryTable Rotary::table(Index first, Index count, Index tokens) {
  const Index decides = rope_.type == RopeConfig::Type::kDynamic ? std::max(tokens, longest_) : 0;
  const Index end = first + count;
  if (decides != made_for_ || all_.cos.size(0) < end) {
    const Index rows = std::max(end, decides == made_for_ ? 2 * all_.cos.size(0) : Index{0});
    const Tensor angle = at::outer(at::arange(rows, at::kFloat), rotary_frequencies(rope_, dim_, longest_, tokens));
    all_ = {angle.cos(), angle.sin()};
    made_for_ = decides;
  }
  return {all_.cos.slice(0, first, end), all_.sin.slice(0, first, end)};
}

}  // namespace hsattn::lm
