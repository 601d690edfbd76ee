#include "lm/pretrained/row_kernels.h"

#include <bit>
#include <cmath>
#include <cstring>

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

constexpr Index kLanes = 16;
using Floats = float __attribute__((vector_size(sizeof(float) * kLanes)));
using Words = std::uint32_t __attribute__((vector_size(sizeof(float) * kLanes)));

HSATTN_PART void load(const float* x, Floats& to) { std::memcpy(&to, x, sizeof to); }

// Two neighbours in each word: the first ones and the second ones of 2 kLanes numbers.
HSATTN_PART void load_pairs(const BFloat16* x, Floats& first, Floats& second) {
  Words words;
  std::memcpy(&words, x, sizeof words);
  first = reinterpret_cast<Floats>(words << 16);
  second = reinterpret_cast<Floats>(words & 0xffff0000U);
}
HSATTN_PART void load_pairs(const float* x, Floats& first, Floats& second) {
  Floats a, b;
  load(x, a), load(x + kLanes, b);
  first = __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  second = __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

HSATTN_PART float total(const Floats& x) {
  const Floats a = x + __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  const Floats b = a + __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  return (b[0] + b[2]) + (b[1] + b[3]);
}

// `kRows` rows of a matrix times x.
template <Index kRows>
HSATTN_PART void products_of_rows(const BFloat16* matrix, Index columns, const float* x, BFloat16* y) {
  Floats sums[kRows] = {};
  Index i = 0;
  for (; i + 2 * kLanes <= columns; i += 2 * kLanes) {
    Floats first, second, a, b;
    load_pairs(x + i, first, second);
    for (Index r = 0; r < kRows; ++r) {
      const BFloat16* row = matrix + r * columns + i;
      __builtin_prefetch(row + kRows * columns);  // a third faster where the matrix is in no cache (a Xeon)
      load_pairs(row, a, b);
      sums[r] += a * first;
      sums[r] += b * second;
    }
  }
  for (Index r = 0; r < kRows; ++r) {
    float rest = 0;
    for (Index j = i; j < columns; ++j) rest += static_cast<float>(matrix[r * columns + j]) * x[j];
    y[r] = BFloat16(rest + total(sums[r]));
  }
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
    Floats sums = {}, a, b;
    Index i = 0;
    for (; i + 2 * kLanes <= width; i += 2 * kLanes) {
      load_pairs(x + i, a, b);
      sums += a * a;
      sums += b * b;
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
  constexpr Index kTogether = 4;  // rows that share what is loaded of x
  Index r = first;
  for (; r + kTogether <= end; r += kTogether) products_of_rows<kTogether>(matrix + r * columns, columns, x, y + r);
  for (; r < end; ++r) products_of_rows<1>(matrix + r * columns, columns, x, y + r);
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
