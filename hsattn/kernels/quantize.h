// Rounding of vectors to 8 bits: low precision is enough to choose candidates (docs/design.md, "Selection"). Shared by
// all kernels and the reference, so that they choose from the same numbers.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "hsattn/base/types.h"

namespace hsattn {

// Largest magnitudes. A product of an unsigned and a signed byte, summed in pairs into 16 bits (AVX2's vpmaddubsw),
// must not saturate: 2 * 255 * 64 < 2^15.
constexpr int kKeyLevels = 127;
constexpr int kQueryLevels = 64;

// x[i] is about out[i] * (returned scale), with |out[i]| at most `levels`. A vector with NaN or Inf becomes zeros with
// scale NaN; one of tiny numbers becomes zeros with scale 0.
inline float quantize(const float* x, Index count, int levels, std::int8_t* out) {
  float largest = 0, not_finite = 0;  // x * 0 is 0 for finite x, NaN otherwise
  for (Index i = 0; i < count; ++i) {
    const float a = std::fabs(x[i]);
    largest = a > largest ? a : largest;
    not_finite += x[i] * 0.0F;
  }
  const bool usable = not_finite == 0.0F && largest > 1e-30F;
  const float inverse = usable ? static_cast<float>(levels) / largest : 0.0F;
  for (Index i = 0; i < count; ++i) {
    const float scaled = usable ? x[i] * inverse : 0.0F;
    out[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(scaled + (scaled < 0 ? -0.5F : 0.5F)));
  }
  if (not_finite != 0.0F || not_finite != not_finite) return std::numeric_limits<float>::quiet_NaN();
  return usable ? largest / static_cast<float>(levels) : 0.0F;
}

}  // namespace hsattn
