#include "lm/pretrained/row_kernels.h"

#include <bit>
#include <cmath>

// Each function below is compiled for several instruction sets, one of which is chosen when the program starts; what
// they share has to become part of each.
#if defined(__x86_64__)
#define HSATTN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define HSATTN_CLONES
#endif
#define HSATTN_PART [[gnu::always_inline]] inline

namespace hsattn::lm {
namespace {

constexpr int kLanes = 32;  // sums side by side: two registers of AVX-512

HSATTN_PART float total(float (&sums)[kLanes]) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

// e^x for |x| <= 87, relative error 2e-7: e^x = 2^n 2^f, with n rounded into the last bits of a large number.
HSATTN_PART float exponential(float x) {
  constexpr float kLog2e = 1.44269504F, kShifter = 12582912.0F;
  const float t = x * kLog2e, shifted = t + kShifter, f = t - (shifted - kShifter);
  float p = 1.3264726e-3F * f + 9.671514e-3F;
  p = p * f + 5.5507336e-2F;
  p = p * f + 2.4022242e-1F;
  p = p * f + 6.93147e-1F;
  p = p * f + 1;
  const std::uint32_t exponent = (std::bit_cast<std::uint32_t>(shifted) + 127) << 23;  // its upper bits fall out
  return p * std::bit_cast<float>(exponent);
}

template <class T>
HSATTN_PART void normalize_any(const T* x, const T* weight, double epsilon, Index rows, Index width, T* out) {
  for (Index r = 0; r < rows; ++r, x += width, out += width) {
    float sums[kLanes] = {};
    Index i = 0;
    for (; i + kLanes <= width; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const auto value = static_cast<float>(x[i + lane]);
        sums[lane] += value * value;
      }
    }
    float rest = 0;
    for (; i < width; ++i) rest += static_cast<float>(x[i]) * static_cast<float>(x[i]);
    const double mean = static_cast<double>(total(sums) + rest) / static_cast<double>(width);
    const auto scale = static_cast<float>(1 / std::sqrt(mean + epsilon));
    for (i = 0; i < width; ++i) out[i] = T(static_cast<float>(x[i]) * scale * static_cast<float>(weight[i]));
  }
}

template <class T>
HSATTN_PART void rotate_any(T* x, const float* cos, const float* sin, Index rows, Index dim) {
  const Index half = dim / 2;
  for (Index r = 0; r < rows; ++r, x += dim) {
    for (Index i = 0; i < half; ++i) {
      const auto a = static_cast<float>(x[i]), b = static_cast<float>(x[half + i]);
      x[i] = T(a * cos[i] - b * sin[i]);
      x[half + i] = T(b * cos[i] + a * sin[i]);
    }
  }
}

template <class T>
HSATTN_PART void gate_any(const T* x, Index rows, Index inner, T* out) {
  constexpr float kLargest = 87.0F;  // silu(-87) is -1e-36
  for (Index r = 0; r < rows; ++r, x += 2 * inner, out += inner) {
    for (Index i = 0; i < inner; ++i) {
      const auto gate = static_cast<float>(x[i]);
      const float above = -gate < -kLargest ? -kLargest : -gate;
      const float bounded = kLargest < above ? kLargest : above;  // NaN stays
      out[i] = T(gate / (1 + exponential(bounded)) * static_cast<float>(x[inner + i]));
    }
  }
}

}  // namespace

HSATTN_CLONES void vector_product(const BFloat16* matrix, Index columns, const float* x, Index first, Index end,
                                  BFloat16* y) {
  for (Index r = first; r < end; ++r) {
    const BFloat16* row = matrix + r * columns;
    float sums[kLanes] = {};
    Index i = 0;
    for (; i + kLanes <= columns; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] += static_cast<float>(row[i + lane]) * x[i + lane];
    }
    float rest = 0;
    for (; i < columns; ++i) rest += static_cast<float>(row[i]) * x[i];
    y[r] = BFloat16(rest + total(sums));
  }
}

HSATTN_CLONES void normalize_rows(const float* x, const float* weight, double epsilon, Index rows, Index width,
                                  float* out) {
  normalize_any(x, weight, epsilon, rows, width, out);
}
HSATTN_CLONES void normalize_rows(const BFloat16* x, const BFloat16* weight, double epsilon, Index rows, Index width,
                                  BFloat16* out) {
  normalize_any(x, weight, epsilon, rows, width, out);
}

HSATTN_CLONES void rotate_rows(float* x, const float* cos, const float* sin, Index rows, Index dim) {
  rotate_any(x, cos, sin, rows, dim);
}
HSATTN_CLONES void rotate_rows(BFloat16* x, const float* cos, const float* sin, Index rows, Index dim) {
  rotate_any(x, cos, sin, rows, dim);
}

HSATTN_CLONES void gate_rows(const float* x, Index rows, Index inner, float* out) { gate_any(x, rows, inner, out); }
HSATTN_CLONES void gate_rows(const BFloat16* x, Index rows, Index inner, BFloat16* out) {
  gate_any(x, rows, inner, out);
}

}  // namespace hsattn::lm
