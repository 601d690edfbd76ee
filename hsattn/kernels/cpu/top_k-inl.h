// Exact top-k of masked scores. The result is a pure function of scores, mask and k: the k largest, ties to the lower
// index. A hint (where the position before had its threshold) only changes how fast it is found.
#pragma once

#include "hsattn/kernels/cpu/simd.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// All scores above `value` are chosen, and the first `ties` of those that equal it; ties -1: all of them.
struct Threshold {
  float value;
  Index ties;
};

// Elements of x[0, n) that are at least t; n a multiple of 16.
HSATTN_INLINE Index count_at_least(const float* x, Index n, float t) {
  const F threshold = set1(t);
  Index count = 0;
  for (Index i = 0; i < n; i += kLanes) count += __builtin_popcount(bits(at_least(load(x + i), threshold)));
  return count;
}

struct Bracket {
  float low, high;            // low <= the threshold < high
  Index from_low, from_high;  // elements at least low, at least high
};

constexpr Index kFew = 24;  // scores among which the threshold is looked for one by one

// Halves the bracket around the k-th largest of x until few elements are left in it.
static Bracket narrow(const float* x, Index n, Index k, Bracket b) {
  for (int round = 0; round < 24 && b.from_low - b.from_high > kFew && b.from_low != k; ++round) {
    const float t = 0.5F * b.low + 0.5F * b.high;
    if (!(t > b.low && t < b.high)) break;
    const Index count = count_at_least(x, n, t);
    if (count >= k) {
      b.low = t;
      b.from_low = count;
    } else {
      b.high = t;
      b.from_high = count;
    }
  }
  return b;
}

// What one pass over the scores of a stage finds.
struct Survey {
  Index allowed = 0, from_high = 0, between = 0;  // items; those that reach `high`; those from `low` up to it
  float smallest = 0, largest = 0;
};

HSATTN_INLINE Index compress_floats(float* out, const float* in, M m) {
  return compress(reinterpret_cast<std::int32_t*>(out), reinterpret_cast<const std::int32_t*>(in), m);
}

// Copies the scores that bit `bit` of `may` allows to `work`, -inf elsewhere; those that are not finite become the
// lowest. The scores in [low, high) go to `inside` as well.
static Survey survey(const float* score, const std::uint8_t* may, unsigned bit, Index n, float low, float high,
                     float* work, float* inside) {
  const F outside = set1(-__builtin_inff()), lowest = set1(kMasked);
  F top = lowest, bottom = set1(-kMasked);
  Survey out;
  for (Index i = 0; i < n; i += kLanes) {
    const M ok = lanes_with_bit(may + i, bit);
    const F s = load(score + i);
    const F value = select(finite(s), s, lowest);
    const F masked = select(ok, value, outside);
    store(work + i, masked);
    out.allowed += __builtin_popcount(bits(ok));
    out.from_high += __builtin_popcount(bits(at_least(masked, set1(high))));
    const M in = both(at_least(masked, set1(low)), above(set1(high), masked));
    out.between += compress_floats(inside + out.between, work + i, in);
    top = max_keep_nan(top, masked);
    bottom = min_keep_nan(bottom, select(ok, value, bottom));
  }
  out.largest = reduce_max(top);
  out.smallest = -reduce_max(sub(zero(), bottom));
  return out;
}

// The elements of x[0, n) in [low, high) to `out`, which may be x.
static Index take_between(const float* x, Index n, float low, float high, float* out) {
  Index count = 0;
  for (Index i = 0; i < n; i += kLanes) {
    const F value = load(x + i);
    count += compress_floats(out + count, x + i, both(at_least(value, set1(low)), above(set1(high), value)));
  }
  return count;
}

// The bracket that the hint suggests, if the survey bears it out; else one that holds everything.
HSATTN_INLINE Bracket first_bracket(const Survey& s, Index k, float low, float high, Hint* hint) {
  Bracket b{s.smallest, __builtin_inff(), s.allowed, 0};
  const Index from_low = s.from_high + s.between;
  const bool low_holds = from_low >= k && low >= s.smallest, high_holds = s.from_high < k && high <= s.largest;
  if (low_holds) {
    b.low = low;
    b.from_low = from_low;
  }
  if (high_holds) {
    b.high = high;
    b.from_high = s.from_high;
  } else {  // just above the largest score
    const float next = s.largest + 1e-6F * __builtin_fabsf(s.largest) + 1e-30F;
    if (next > s.largest) b.high = next;
  }
  const bool good = low_holds && high_holds;
  const float widest = 0.25F * (s.largest - s.smallest);
  if (!good) {
    hint->spread = min_of(2 * hint->spread + 1e-3F * (s.largest - s.smallest), widest);
  } else if (b.from_low - b.from_high > kFew) {
    hint->spread *= 0.75F;
  }
  return b;
}

// The k-th largest (k from 1 to n) of the few x[0, n), which is followed by room for a vector. By counting, as branches
// on scores cannot be guessed.
static Threshold kth_of_few(float* x, Index n, Index k) {
  store(x + n, set1(__builtin_inff()));
  if (k == n) {
    F bottom = load(x);
    for (Index i = kLanes; i < n; i += kLanes) bottom = min_keep_nan(bottom, load(x + i));
    return {-reduce_max(sub(zero(), bottom)), -1};
  }
  store(x + n, set1(-__builtin_inff()));
  for (Index j = 0; j < n; ++j) {
    Index more = 0;
    for (Index i = 0; i < n; i += kLanes) more += __builtin_popcount(bits(above(load(x + i), set1(x[j]))));
    if (more >= k) continue;
    const Index reach = count_at_least(x, n, x[j]);
    if (reach >= k) return {x[j], reach == k ? -1 : k - more};
  }
  return {kMasked, -1};  // never: one of them is the k-th
}

// The threshold of the k best of the items that bit `bit` of may[i] allows. n is a multiple of 16; work, where their
// scores are left, and spare have room for n and a vector more.
static Threshold find_threshold(const float* score, const std::uint8_t* may, unsigned bit, Index n, Index k,
                                float* work, float* spare, Hint* hint) {
  const float low = hint->value - hint->spread, high = hint->value + hint->spread;
  const Survey s = survey(score, may, bit, n, low, high, work, spare);
  if (s.allowed <= k) return {kMasked, -1};
  Bracket b = first_bracket(s, k, low, high, hint);
  Index inside = s.between;
  if (b.low != low || b.high != high) {
    b = narrow(work, n, k, b);
    inside = take_between(work, n, b.low, b.high, spare);
  } else if (inside > kFew) {
    store(spare + inside, set1(-__builtin_inff()));
    const Bracket all{b.low, b.high, inside, 0};
    const Bracket few = narrow(spare, inside, k - b.from_high, all);
    b.from_high += few.from_high;
    inside = take_between(spare, inside, few.low, few.high, spare);
  }
  const Threshold found = kth_of_few(spare, inside, k - b.from_high);
  hint->value = found.value;
  return found;
}

// How many of the largest of x[0, n) reach `need`, none of them below 0, added up as integers of factor * x; `need` is
// at most the sum of all. Reorders x.
static Index fewest_to_reach(float* x, Index n, float factor, std::int64_t need) {
  Index begin = 0, end = n;
  while (need > 0) {
    const float pivot = x[begin + (end - begin) / 2];
    Index above = begin, behind = end;  // [begin, above) exceed the pivot, [above, at) equal it, [behind, end) are less
    std::int64_t sum = 0;
    for (Index at = begin; at < behind;) {
      const float value = x[at];
      if (value > pivot) {
        x[at++] = x[above];
        x[above++] = value;
        sum += static_cast<std::int64_t>(value * factor);
      } else if (value < pivot) {
        x[at] = x[--behind];
        x[behind] = value;
      } else {
        ++at;
      }
    }
    const auto each = static_cast<std::int64_t>(pivot * factor);
    if (need <= sum) {
      end = above;
    } else if (need <= sum + each * (behind - above)) {
      return above + (need - sum + each - 1) / each;
    } else {
      need -= sum + each * (behind - above);
      begin = behind;
    }
  }
  return begin;
}

// Calls take(i, lanes) for each vector of items, with the lanes that are chosen.
template <class Take>
HSATTN_INLINE void for_each_chosen(const float* work, Index n, Threshold t, const Take& take) {
  const F value = set1(t.value);
  for (Index i = 0; i < n; i += kLanes) {
    const F x = load(work + i);
    if (t.ties < 0) {
      take(i, at_least(x, value));
      continue;
    }
    unsigned chosen = bits(above(x, value));
    for (unsigned equal = bits(at_least(x, value)) & ~chosen; equal != 0 && t.ties > 0; equal &= equal - 1, --t.ties) {
      chosen |= equal & ~(equal - 1);
    }
    take(i, lanes_of_word(chosen));
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
