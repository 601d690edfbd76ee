// Rounding of vectors to 8 bits: low precision is enough to choose candidates (docs/design.md, "Selection"). Shared by
// all kernels and the reference, so that they choose from the same numbers.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "hsattn/base/types.h"

namespace hsattn {

// Largest magnitudes. A product of an unsigned and a signed byte, summed in pairs into 16 bits (AVX2's vpmaddubsw),
// must not saturate: 2 * 255 * 64 < 2^15.
constexpr int kKeyLevels = 127;
constexpr int kQueryLevels = 64;

// The bits of the largest magnitude among x: magnitudes order as integers do, and those of NaN and Inf are the largest.
inline std::int32_t largest_magnitude_bits(const float* x, Index count) {
  std::int32_t largest = 0;
  for (Index i = 0; i < count; ++i) {
    std::int32_t bits = 0;
    std::memcpy(&bits, x + i, sizeof bits);
    largest = std::max(largest, bits & 0x7fffffff);
  }
  return largest;
}

// x[i] is about out[i] * (returned scale), with |out[i]| at most `levels`. A vector with NaN or Inf becomes zeros with
// scale NaN; one of tiny numbers becomes zeros with scale 0.
inline float quantize(const float* x, Index count, int levels, std::int8_t* out) {
  const auto largest = std::bit_cast<float>(largest_magnitude_bits(x, count));
  if (!(largest > 1e-30F && largest <= std::numeric_limits<float>::max())) {
    std::fill_n(out, count, std::int8_t{0});
    return largest <= 1e-30F ? 0.0F : std::numeric_limits<float>::quiet_NaN();
  }
  const float inverse = static_cast<float>(levels) / largest;
  for (Index i = 0; i < count; ++i) {
    const float scaled = x[i] * inverse;
    out[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(scaled + std::copysign(0.5F, scaled)));
  }
  return largest / static_cast<float>(levels);
}

}  // namespace hsattn
