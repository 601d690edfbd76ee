// The few vector operations that the kernels need, for the instruction set that the including file names by
// HSATTN_SIMD_AVX512, HSATTN_SIMD_AVX2 or neither (portable). Everything lands in the namespace HSATTN_SIMD_NAMESPACE,
// so that no code built for one processor is linked into another's path.
//
// "keep_nan": the second operand is returned when the comparison is false, so a NaN in x stays.
#pragma once

#if defined(HSATTN_SIMD_AVX512) || defined(HSATTN_SIMD_AVX2)
#include <immintrin.h>
#endif

#include <cstdint>

#include "hsattn/kernels/cpu/layout.h"

#define HSATTN_INLINE static inline __attribute__((always_inline))

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

#if defined(HSATTN_SIMD_AVX512)
#include "hsattn/kernels/cpu/simd_avx512.h"
#elif defined(HSATTN_SIMD_AVX2)
#include "hsattn/kernels/cpu/simd_avx2.h"
#else
#include "hsattn/kernels/cpu/simd_portable.h"
#endif

constexpr int kUnitsPerVector = kLanes / 8;
constexpr int kVectors = static_cast<int>(kPanel) / kLanes;  // vectors of one row of a panel

template <class T>
HSATTN_INLINE T min_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
HSATTN_INLINE T max_of(T a, T b) {
  return a > b ? a : b;
}

// x = integer + fraction with |fraction| <= 1/2; returns 2^fraction (degree 5, relative error 2.4e-7).
HSATTN_INLINE F exp2_fraction(F x, F* integer) {
  *integer = round_nearest(x);
  const F f = sub(x, *integer);
  F p = set1(1.33335581e-3F);
  p = fma(p, f, set1(9.61812911e-3F));
  p = fma(p, f, set1(5.55041087e-2F));
  p = fma(p, f, set1(2.40226507e-1F));
  p = fma(p, f, set1(6.93147181e-1F));
  return fma(p, f, set1(1.0F));
}

// 2^(x - m) for an integral m >= x - 1. The integer part is split off before m is subtracted, so that another m changes
// the result by an exact power of two.
HSATTN_INLINE F exp2_minus(F x, F m) {
  F integer;
  const F p = exp2_fraction(x, &integer);
  return scale_by_power(p, sub(integer, m));
}

// 2^e for an integral e <= 0 as float; 0 below -126.
HSATTN_INLINE float power_of_two(float e) {
  if (!(e > -127.0F)) return e == e ? 0.0F : e;
  const std::uint32_t word = static_cast<std::uint32_t>(static_cast<std::int32_t>(e) + 127) << 23;
  float x;
  __builtin_memcpy(&x, &word, sizeof x);
  return x;
}

HSATTN_INLINE float sum_of_half(H x) {
  float lane[8];
  half_store(lane, x);
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
