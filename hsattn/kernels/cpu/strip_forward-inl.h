// Forward with tile registers: see strip-inl.h.
#pragma once

#include "hsattn/kernels/cpu/strip-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// Registers 0 to 3: sums; 4, 5: rows and columns of 16 words; 6, 7: weights and values of one unit.
constexpr TileShapes kForwardShapes{{16, 16, 16, 16, 16, 16, 16, 4}, {16, 16, 16, 16, 16, 16, 4, 16}};

// What a step of the running softmax does to each of the 16 rows; powers are of 2.
struct StripStep {
  alignas(64) float rescale[kStripRows];
  alignas(64) float power[kStripRows];   // weights are exp(score) 2^-power
  alignas(64) float lowest[kStripRows];  // sums of products below this weigh nothing
  bool rescales;
  bool huge;
};

// Finds the rows' maxima with `products`, scores [16, 64] that are not multiplied by the scale yet. The first `rows`
// exist.
HSATTN_INLINE void begin_step(const float* products, const StripPanel& panel, float scale, int rows, float* best,
                              StripStep& step) {
  F top[kStripRows];
  for (int r = 0; r < kStripRows; ++r) {
    top[r] = set1(kMasked);
    if (r >= rows) continue;
    for (int c = 0; c < kVectors; ++c) {
      const F x = load(products + r * kPanel + c * kLanes);
      top[r] = max_keep_nan(panel.all_seen ? x : select(lanes_of(panel.seen[r] + 2 * c), x, set1(kMasked)), top[r]);
    }
  }
  const F product = maxima_of_rows(top), largest = mul(product, set1(scale)), old = load(best);
  const F now = select(both(above(product, set1(kMasked)), above(largest, old)), largest, old);
  store(best, now);
  const F infinity = set1(__builtin_inff()), old_power = round_up(mul(old, set1(kLog2e)));
  const F new_power = round_up(mul(now, set1(kLog2e)));
  const M same = both(at_least(old_power, new_power), at_least(new_power, old_power));
  step.rescales = bits(same) != 0xffffU;
  if (step.rescales) {
    store(step.rescale, select(same, set1(1.0F), scale_by_power(set1(1.0F), sub(old_power, new_power))));
  }
  const F power = select(at_least(sub(zero(), infinity), new_power), zero(), new_power);
  step.huge = (bits(above(power, set1(kHugeExponent))) | bits(above(set1(-kHugeExponent), power))) != 0;
  store(step.power, power);
  store(step.lowest, mul(sub(power, set1(124.0F)), set1(1.0F / (scale * kLog2e))));
}

// What makes a score of a product of rows, and a power of 2.
struct ScoreScale {
  float scale, factor;
  HSATTN_ALWAYS explicit ScoreScale(float s) : scale(s), factor(s * kLog2e) {}
};

// exp(scale * product) 2^-power of what is seen. kAny: of any magnitude, and NaN; else neither huge nor NaN.
template <bool kAny>
HSATTN_INLINE F weights_of_products(F x, M seen, const ScoreScale& scale, float lowest, float power) {
  const F factor = set1(scale.factor);
  const F shifter = set1(kShifter);
  const F shifted = fma(x, factor, shifter);
  if constexpr (!kAny) {
    const F p = power_of_fraction(fma(x, factor, sub(shifter, shifted)));
    return scale_by_shifted(both(seen, at_least(x, set1(lowest))), p, shifted, set1(power + kShifter));
  } else {
    const F t = mul(mul(x, set1(scale.scale)), set1(kLog2e));  // as the power is found
    const M small = both(above(t, set1(-2097152.0F)), above(set1(2097152.0F), t));
    const F integer = select(small, sub(shifted, shifter), round_nearest(t));
    const F f = min_keep_nan(set1(0.5F), max_keep_nan(set1(-0.5F), fma(x, factor, sub(zero(), integer))));
    const M negligible = both(small, above(set1(lowest), x));
    const F w = scale_by_power(power_of_fraction(f), sub(integer, set1(power)));
    return select(seen, select(negligible, zero(), w), zero());
  }
}

// Weights of one row as pairs of keys [32], and their sums [8].
template <bool kAny, bool kAllSeen>
HSATTN_INLINE void weigh_row(const float* products, const StripPanel& panel, int row, const ScoreScale& scale,
                             const StripStep& step, float* sums, float* words) {
  F w[kVectors];
  H sum = half_load(sums);
  if (step.rescales) sum = half_mul(sum, step.rescale[row]);
  each<kVectors>([&](int c) HSATTN_ALWAYS {
    const M seen = kAllSeen ? static_cast<M>(0xffffU) : lanes_of(panel.seen[row] + 2 * c);
    if (!kAllSeen && !panel.has_vector(row / static_cast<int>(kQuad), c)) {
      w[c] = zero();
      return;
    }
    w[c] = weights_of_products<kAny>(load(products + c * kLanes), seen, scale, step.lowest[row], step.power[row]);
    sum = add_units(sum, w[c]);
  });
  half_store(sums, sum);
  each<kVectors / 2>([&](int c)
                         HSATTN_ALWAYS { store(words + c * kLanes, pairs_of_neighbours(w[2 * c], w[2 * c + 1])); });
}

template <bool kAny, bool kAllSeen>
HSATTN_APART void weigh_rows(const float* products, const StripPanel& panel, const ScoreScale& scale,
                             const StripStep& step, int rows, float* sums, float* words) {
  for (int r = 0; r < rows; ++r) {
    weigh_row<kAny, kAllSeen>(products + r * kPanel, panel, r, scale, step, sums + r * kUnit, words + r * kPanel / 2);
  }
}

HSATTN_INLINE void rescale_strip(const StripStep& step, Index padded, Index row, int rows, Scratch& s) {
  store(s.far_sum + row, mul(load(step.rescale), load(s.far_sum + row)));
  for (int r = 0; r < rows; ++r) {
    const F factor = set1(step.rescale[r]);
    float* o = s.o + (row + r) * padded;
    float* sums = s.tile_sums + (row + r) * kLanes;
    for (Index c = 0; c < padded; c += kLanes) store(o + c, mul(factor, load(o + c)));
    store(sums, mul(factor, load(sums)));
  }
}

// Rows of values that are all 1 in the first dimension: sums of the weights as pairs hold them.
struct Ones {
  alignas(64) std::uint32_t words[kHalfWords][kLanes];
  constexpr Ones() : words{} {
    for (auto& row : words) row[0] = 0x3f803f80U;
  }
};
constexpr Ones kOnes{};

HSATTN_INLINE void add_up_weights(const float* words, const StripPanel& panel, float* sums) {
  StripRowsOfUnits ones;
  const auto* one = reinterpret_cast<const float*>(&kOnes);
  for (int slot = 0; slot < kSlots; ++slot) ones.of[slot] = panel.unit[slot] == kNoUnit ? nullptr : one;
  weighted_rows_of_strip<1>(words, panel, ones, kLanes, 0, false, sums, kLanes);
}

// `existing` of the strip's rows: a decode step has few (`full`, 16384 tokens, group of 3: 5 % less time on a Xeon).
HSATTN_INLINE void forward_strip_panel(const PackedHead& head, float scale, bool careful_rows, StripCursor& cursor,
                                       Index row, int existing, Scratch& s) {
  StripPanel panel;
  StripColumns columns;
  StripRowsOfUnits rows;
  StripStep step;
  alignas(64) float products[kStripRows * kPanel];
  alignas(64) float words[kStripRows * kPanel / 2];
  take_strip_panel(head, cursor, panel);
  columns.find(head.keys_t, head.depth, panel);
  scores_of_strip(s.q_pairs + row * head.depth, head.depth, columns, products);
  begin_step(products, panel, scale, existing, s.max + row, step);
  const auto weigh = panel.careful || careful_rows || step.huge ? weigh_rows<true, false>
                     : panel.all_seen                           ? weigh_rows<false, true>
                                                                : weigh_rows<false, false>;
  weigh(products, panel, ScoreScale(scale), step, existing, s.sums + row * kUnit, words);
  if (existing < kStripRows) {
    const Index begin = existing * kPanel / 2, end = kStripRows * kPanel / 2;
    __builtin_memset(words + begin, 0, static_cast<std::size_t>(end - begin) * sizeof(float));
  }
  if (step.rescales) rescale_strip(step, head.padded_dim, row, existing, s);
  rows.find(head.values, panel, false);
  float* o = s.o + row * head.padded_dim;
  weighted_units_of_strip(head, words, panel, rows, false, o);
  add_up_weights(words, panel, s.tile_sums + row * kLanes);
  if (panel.careful) add_not_finite(head, head.values, panel, words, o);
}

// True if one of the rows holds a number that is not finite.
HSATTN_INLINE bool any_not_finite(const float* rows, Index count) {
  bool all = true;
  for (Index i = 0; i < count; i += kLanes) all &= bits(finite(load(rows + i))) == 0xffffU;
  return !all;
}

static void forward_tile_by_strips(const HeadJob& job, Index first, Index count, const ForwardOutputs& out,
                                   Scratch& s) {
  const PackedHead& head = *job.packed;
  const Index rows = count * job.group, quads = (rows + kQuad - 1) / kQuad, padded = head.padded_dim;
  const Index all_rows = (rows + kStrip - 1) / kStrip * kStrip;
  load_tile_rows(job.q, job.group, first, count, job.scale, padded, s.q);
  load_tile_pairs(job.q, job.group, first, count, 2 * head.depth, s.q_pairs, nullptr);
  complete_pairs(rows, head.depth, job.scale < 0, s.q_pairs);
  build_tile_entries(job, first, count, tile_lists(job, first, count, s), false, s);
  reset_rows(all_rows, padded, s);
  if (job.shape.tail > 0) begin_with_tail(rows, padded, s);
  __builtin_memset(s.tile_sums, 0, static_cast<std::size_t>(all_rows * kLanes) * sizeof(float));
  if (job.shape.far_field) {
    for (Index quad = 0; quad < quads; ++quad) forward_far(head, far_of(s, quad), quad * kQuad, s);
  }
  {
    const TileRegisters registers(kForwardShapes);
    const bool careful = any_not_finite(s.q, quads * kQuad * padded);
    for_each_strip_panel(s, quads, [&](Index strip, StripCursor& cursor) HSATTN_ALWAYS {
      const auto existing = static_cast<int>(min_of(kStrip, rows - strip * kStrip));
      forward_strip_panel(head, job.scale < 0 ? -job.scale : job.scale, careful, cursor, strip * kStrip, existing, s);
    });
  }
  for (Index row = 0; row < rows; ++row) s.rounded_sums[row * kUnit] = s.tile_sums[row * kLanes];
  write_tile<Pairs>(job, first, count, out, s);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
