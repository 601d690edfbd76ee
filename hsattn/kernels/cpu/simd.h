// The few vector operations that the kernels need, for the instruction set that the including file names by
// HSATTN_SIMD_AVX512, HSATTN_SIMD_AVX2 or neither (portable). Everything lands in the namespace HSATTN_SIMD_NAMESPACE,
// so that no code built for one processor is linked into another's path.
//
// "keep_nan": the second operand is returned when the comparison is false, so a NaN in x stays.
#pragma once

#if defined(HSATTN_SIMD_AVX512) || defined(HSATTN_SIMD_AVX2)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstdint>

#include "hsattn/kernels/cpu/layout.h"

#define HSATTN_INLINE static inline __attribute__((always_inline))
// A function of its own, whatever the instruction set.
#define HSATTN_APART static __attribute__((noinline))
// With 16 registers, a function of its own, so that its accumulators get them all: inlined into a long function GCC
// spills them (1.6x the time of full attention). With 32 there is room, and calls would cost 7 %.
#if defined(HSATTN_SIMD_AVX512)
#define HSATTN_ALONE HSATTN_INLINE
#else
#define HSATTN_ALONE HSATTN_APART
#endif

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

#if defined(HSATTN_SIMD_AVX512)
#include "hsattn/kernels/cpu/simd_avx512.h"
#elif defined(HSATTN_SIMD_AVX2)
#include "hsattn/kernels/cpu/simd_avx2.h"
#else
#include "hsattn/kernels/cpu/simd_portable.h"
#endif

// What the words of packed keys, values and rows are, and how products of them are added up: see PackedHead.
struct Floats {
  static constexpr int kPerWord = 1;
  HSATTN_INLINE F add_products(F sum, F a, F b) { return fma(a, b, sum); }
  HSATTN_INLINE F rounded(F x) { return x; }
  HSATTN_INLINE F masked(F x, unsigned) { return x; }
};
#if !defined(HSATTN_SIMD_AVX2)
struct Pairs {
  static constexpr int kPerWord = 2;
  // To the 8 digits of a bfloat16 (Dekker's splitting).
  HSATTN_INLINE F rounded(F x) {
    const F shifted = mul(x, set1(65537.0F));
    return sub(shifted, sub(shifted, x));
  }
  HSATTN_INLINE F neighbours(F first, F second) { return pairs_of_neighbours(first, second); }
  HSATTN_INLINE F lanes(F low, F high) { return pairs_of_lanes(low, high); }
  HSATTN_INLINE F add_products(F sum, F a, F b) { return add_pair_products(sum, a, b); }
  // The halves named by two bits, the others 0.
  HSATTN_INLINE F masked(F x, unsigned halves) {
    return and_bits(x, (halves & 1U ? 0xffffU : 0U) | (halves & 2U ? 0xffff0000U : 0U));
  }
};
#endif

constexpr int kUnitsPerVector = kLanes / 8;
constexpr int kStep = kLanes / 8;  // words of each token of a unit that fill a vector: see PackedHead
constexpr int kVectors = static_cast<int>(kPanel) / kLanes;  // vectors of one row of a panel

// body(0), ..., body(N - 1), written out before anything else is optimized: arrays of vectors that are indexed so
// become registers. Of a loop, GCC makes one too late; the array stays in memory and is copied to and fro.
#define HSATTN_ALWAYS __attribute__((always_inline))
template <int N, class Body>
HSATTN_INLINE void each(Body body) {
  if constexpr (N > 0) {
    each<N - 1>(body);
    body(N - 1);
  }
}

template <class T>
HSATTN_INLINE T min_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
HSATTN_INLINE T max_of(T a, T b) {
  return a > b ? a : b;
}
template <class T>
HSATTN_INLINE void exchange(T& a, T& b) {
  const T old = a;
  a = b;
  b = old;
}

// exp(x) = p 2^integer; returns p (degree 5, relative error 1.1e-7). The reduced argument x - integer ln 2 is taken off
// in two parts, the first with few bits, so that scores of 1e4 lose nothing; with kHuge it is clamped, for scores
// beyond that, where a float no longer tells it.
template <bool kHuge>
HSATTN_INLINE F exp_reduced(F x, F* integer) {
  *integer = round_nearest(mul(x, set1(kLog2e)));
  F f = minus_product(*integer, set1(0.693359375F), x);
  f = minus_product(*integer, set1(-2.12194440e-4F), f);
  if constexpr (kHuge) f = max_keep_nan(set1(-0.35F), min_keep_nan(set1(0.35F), f));
  F p = set1(8.31249e-3F);
  p = fma(p, f, set1(4.189008e-2F));
  p = fma(p, f, set1(1.6667115e-1F));
  p = fma(p, f, set1(4.9999232e-1F));
  p = fma(p, f, set1(1.0F));
  return fma(p, f, set1(1.0F));
}

// exp(x) 2^-m for an integral m. The integer part is split off before m is subtracted, so that another m changes the
// result by an exact power of two.
template <bool kHuge>
HSATTN_INLINE F exp_minus(F x, F m) {
  F integer;
  const F p = exp_reduced<kHuge>(x, &integer);
  return scale_by_power(p, sub(integer, m));
}

constexpr float kHugeExponent = 1048576.0F;  // of 2; beyond it scores need the clamped reduction

// An integral m with exp(x) <= 2^m.
HSATTN_INLINE float exponent_above(float x) { return __builtin_ceilf(x * kLog2e); }

// Weights of scores below this are 0 next to 2^m: clamped to it they stay within the range of the reduction. The
// clamped reduction needs no more than that x log2(e) is finite.
template <bool kHuge>
HSATTN_INLINE float negligible_below(float m) {
  return kHuge ? -2.0e38F : (m - 200.0F) * kLn2;
}

// One lane of fma().
HSATTN_INLINE float fused_multiply_add(float a, float b, float c) {
#if defined(HSATTN_SIMD_AVX512) || defined(HSATTN_SIMD_AVX2) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
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
