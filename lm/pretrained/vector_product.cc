#include "lm/pretrained/vector_product.h"

#include <bit>

namespace hsattn::lm {
namespace {

constexpr int kLanes = 32;  // sums side by side: two registers of AVX-512

inline float widen(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

// To nearest, ties to even; NaN stays NaN.
inline std::uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace

#if defined(__x86_64__)
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
void vector_product(const std::uint16_t* matrix, Index columns, const float* x, Index first, Index end,
                    std::uint16_t* y) {
  for (Index r = first; r < end; ++r) {
    const std::uint16_t* row = matrix + r * columns;
    float sums[kLanes] = {};
    Index i = 0;
    for (; i + kLanes <= columns; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] += widen(row[i + lane]) * x[i + lane];
    }
    float sum = 0;
    for (; i < columns; ++i) sum += widen(row[i]) * x[i];
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    }
    y[r] = round_to_bf16(sum + sums[0]);
  }
}

}  // namespace hsattn::lm
