// Exact top-k of masked scores. The result is a pure function of scores, mask and k: the k largest, ties to the lower
// index. A guess (the threshold of the position before) only changes how fast it is found.
#pragma once

#include "hsattn/kernels/cpu/simd.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// Elements of x[0, n) that are at least t; n a multiple of 16.
HSATTN_INLINE Index count_at_least(const float* x, Index n, float t) {
  const F threshold = set1(t);
  Index count = 0;
  for (Index i = 0; i < n; i += kLanes) count += __builtin_popcount(bits(at_least(load(x + i), threshold)));
  return count;
}

// The k-th largest (k from 1) of x[0, n); reorders x.
static float kth_largest(float* x, Index n, Index k) {
  Index begin = 0, end = n;
  const Index want = k - 1;
  while (end - begin > 1) {
    const float pivot = x[begin + (end - begin) / 2];
    Index i = begin, j = end - 1;
    while (i <= j) {
      while (x[i] > pivot) ++i;
      while (x[j] < pivot) --j;
      if (i <= j) {
        const float t = x[i];
        x[i++] = x[j];
        x[j--] = t;
      }
    }
    if (want <= j) {
      end = j + 1;
    } else if (want >= i) {
      begin = i;
    } else {
      return x[want];
    }
  }
  return x[begin];
}

struct Bracket {
  float low, high;            // low <= the threshold < high
  Index from_low, from_high;  // elements at least low, at least high
};

// Narrows the bracket around the k-th largest of x until few elements are left in it.
static Bracket narrow(const float* x, Index n, Index k, Bracket b, float smallest, float largest, float guess) {
  constexpr Index kFew = 48;
  float step = (largest - smallest) * 0.02F;
  bool low_known = false, high_known = false;
  for (int round = 0; round < 16 && b.from_low - b.from_high > kFew && b.from_low != k; ++round) {
    float t = guess;
    if (round > 0 || !(t > smallest && t < largest)) {
      if (low_known && high_known) {
        t = 0.5F * (b.low + b.high);
      } else if (low_known) {
        t = b.low + step;
      } else if (high_known) {
        t = b.high - step;
      } else {
        t = 0.5F * (smallest + largest);
      }
      step *= 3;
    }
    if (!(t > b.low && t < b.high)) t = 0.5F * (max_of(b.low, smallest) + min_of(b.high, largest));
    if (!(t > b.low && t < b.high)) break;
    const Index count = count_at_least(x, n, t);
    if (count >= k) {
      b.low = t;
      b.from_low = count;
      low_known = true;
    } else {
      b.high = t;
      b.from_high = count;
      high_known = true;
    }
  }
  return b;
}

// Sets bit `bit` in chosen[i] for the k best of the items that may be chosen (bit `bit` of may[i]). n is a multiple of
// 16; work and spare have room for n. Scores that are not finite rank last.
static void top_k(const float* score, const std::uint8_t* may, unsigned bit, Index n, Index k, float* work,
                  float* spare, float* guess, std::uint8_t* chosen) {
  const float infinity = __builtin_inff();
  F top = set1(kMasked), bottom = set1(-kMasked);
  Index allowed = 0;
  for (Index i = 0; i < n; i += kLanes) {
    const M ok = lanes_with_bit(may + i, bit);
    const F s = load(score + i);
    const F value = select(finite(s), s, set1(kMasked));
    allowed += __builtin_popcount(bits(ok));
    top = max_keep_nan(top, select(ok, value, set1(kMasked)));
    bottom = min_keep_nan(bottom, select(ok, value, set1(-kMasked)));
    store(work + i, select(ok, value, set1(-infinity)));
  }
  const auto flag = static_cast<std::uint8_t>(1U << bit);
  if (allowed <= k) {
    for (Index i = 0; i < n; ++i) chosen[i] = static_cast<std::uint8_t>(chosen[i] | (may[i] & flag));
    return;
  }
  const float largest = reduce_max(top);
  const float smallest = -reduce_max(sub(zero(), bottom));
  const Bracket b = narrow(work, n, k, {smallest, infinity, allowed, 0}, smallest, largest, *guess);
  Index inside = 0;
  for (Index i = 0; i < n; i += kLanes) {
    const F x = load(work + i);
    const unsigned in = bits(at_least(x, set1(b.low))) & ~bits(at_least(x, set1(b.high)));
    if (in != 0) {
      for (unsigned left = in; left != 0; left &= left - 1) spare[inside++] = work[i + __builtin_ctz(left)];
    }
  }
  const float threshold = b.from_low == k ? b.low : kth_largest(spare, inside, k - b.from_high);
  *guess = threshold;
  Index ties = k - (b.from_low == k ? 0 : b.from_high);  // how many of the bracket are wanted
  if (b.from_low != k) {
    for (Index i = 0; i < inside; ++i) ties -= spare[i] > threshold ? 1 : 0;
  }
  const bool exact = b.from_low == k;  // all that reach the threshold are wanted
  for (Index i = 0; i < n; i += kLanes) {
    const F x = load(work + i);
    for (unsigned left = bits(at_least(x, set1(threshold))); left != 0; left &= left - 1) {
      const Index at = i + __builtin_ctz(left);
      if (!exact && work[at] == threshold && ties-- <= 0) continue;
      chosen[at] = static_cast<std::uint8_t>(chosen[at] | flag);
    }
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
