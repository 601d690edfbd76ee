// Exact softmax masses of candidate blocks.
#pragma once

#include "hsattn/kernels/cpu/cell-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// One bit for each position becomes one byte for each: 0xff where set, cut to `lanes`.
static std::uint32_t bytes_of_bits(unsigned mask, std::uint32_t lanes) {
  std::uint32_t bytes = 0;
  for (unsigned p = 0; p < 4; ++p) bytes |= (mask >> p & 1U) != 0 ? lanes << (8 * p) : 0U;
  return bytes;
}

// The units of all candidates, and of the near run where masses have to be normalised over it.
static Index list_candidate_units(Cell& c) {
  const PlanShape& shape = c.job.shape;
  const Index per_block = max_of<Index>(1, shape.block / kUnit);
  Entry* out = c.s.cell_entries.get();
  Index units = 0;
  const Index count = items(c);
  for (Index i = 0; i < count; ++i) {
    const Index begin = c.s.ids[i] * shape.block, end = min_of(shape.keys, begin + shape.block);
    for (Index u = 0; u < per_block; ++u) {
      const Index unit = begin / kUnit + u;
      const std::uint32_t lanes = lane_bits(begin - unit * kUnit, end - unit * kUnit);
      out[units++] = {static_cast<std::int32_t>(unit * kUnit < shape.keys ? unit : 0),
                      bytes_of_bits(c.s.may[i], lanes)};
    }
  }
  if (c.job.group == 1) return units;
  Index begin = shape.keys, end = 0;
  for (int p = 0; p < c.positions; ++p) {
    if ((c.active >> p & 1U) == 0 || c.near_end[p] <= c.near_begin[p]) continue;
    begin = min_of(begin, c.near_begin[p]);
    end = max_of(end, c.near_end[p]);
  }
  for (Index unit = begin / kUnit; unit * kUnit < end; ++unit) {
    std::uint32_t bytes = 0;
    for (int p = 0; p < c.positions; ++p) {
      if ((c.active >> p & 1U) == 0) continue;
      bytes |= lane_bits(c.near_begin[p] - unit * kUnit, c.near_end[p] - unit * kUnit) << (8 * p);
    }
    out[units++] = {static_cast<std::int32_t>(unit), bytes};
  }
  return units;
}

static void score_units(Cell& c, Index units) {
  const Index dim = c.job.packed->dim, padded = c.job.packed->padded_dim, capacity = c.s.capacity;
  const Entry* entries = c.s.cell_entries.get();
  for (Index i = 0; i < units; i += kPanelUnits) {
    const float* unit[kPanelUnits];
    for (int u = 0; u < kPanelUnits; ++u) {
      unit[u] = c.job.packed->keys_t.get() + entries[i + u].unit * dim * kUnit;
    }
    for (Index r = 0; r < c.rows(); r += kQuad) {
      scores_of_panel(c.q + r * padded, padded, dim, unit, c.s.scores.get() + r * capacity + i * kUnit, capacity);
    }
  }
}

// Lanes of the units in one vector that position p may choose.
HSATTN_INLINE M lanes_of_entries(const Entry* e, unsigned p) {
  std::uint8_t bytes[2];
  bytes[0] = static_cast<std::uint8_t>(e[0].lanes >> (8 * p));
  bytes[1] = kLanes == 16 ? static_cast<std::uint8_t>(e[1].lanes >> (8 * p)) : 0;
  return lanes_of(bytes);
}

// Sum of exp over each unit of one row, relative to the row's largest score; returns the factor that normalises them.
static float unit_masses(Cell& c, unsigned p, float* score, Index units) {
  const Entry* entries = c.s.cell_entries.get();
  F top = set1(kMasked);
  for (Index u = 0; u < units; u += kUnitsPerVector) {
    const F x = load(score + u * kUnit);
    top = max_keep_nan(top, select(both(lanes_of_entries(entries + u, p), finite(x)), x, set1(kMasked)));
  }
  const float exponent = exponent_above(max_of(reduce_max(top), -1.0e38F));
  const F m = set1(exponent), floor = set1(negligible_below<true>(exponent));
  std::int64_t total = 0;
  I sum = int_zero();
  for (Index u = 0; u < units; u += kPanelUnits) {
    H lane_sums[kPanelUnits];
    for (int v = 0; v < kVectors; ++v) {
      const F x = load(score + u * kUnit + v * kLanes);
      const M ok = both(lanes_of_entries(entries + u + v * kUnitsPerVector, p), finite(x));
      const F w = select(ok, exp_minus<true>(max_keep_nan(floor, x), m), zero());
      if (c.job.group > 1) sum = int_add(sum, to_fixed_point(w));
      float lanes[kLanes];
      store(lanes, w);
      for (int h = 0; h < kUnitsPerVector; ++h) lane_sums[v * kUnitsPerVector + h] = half_load(lanes + h * kUnit);
    }
    half_store(c.s.unit_mass.get() + u, sums_of_units(lane_sums));
    if (u % 2048 == 2040) {
      total += int_sum(sum);
      sum = int_zero();
    }
  }
  total += int_sum(sum);
  return total > 0 ? 1048576.0F / static_cast<float>(total) : 1.0F;
}

// Exact softmax masses of the candidate blocks, summed over the heads of each position.
static void rescore(Cell& c) {
  const Index per_block = max_of<Index>(1, c.job.shape.block / kUnit);
  const Index count = items(c);
  Index units = list_candidate_units(c);
  while (units % kPanelUnits != 0) c.s.cell_entries[units++] = {0, 0};
  score_units(c, units);
  for (unsigned p = 0; p < static_cast<unsigned>(c.positions); ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    float* mass = c.s.mass.get() + static_cast<Index>(p) * c.s.capacity;
    for (Index h = 0; h < c.job.group; ++h) {
      float* score = c.s.scores.get() + (static_cast<Index>(p) * c.job.group + h) * c.s.capacity;
      const float factor = unit_masses(c, p, score, units);
      for (Index i = 0; i < count; ++i) {
        float sum = c.s.unit_mass[i * per_block];
        for (Index u = 1; u < per_block; ++u) sum += c.s.unit_mass[i * per_block + u];
        mass[i] = h == 0 ? sum * factor : mass[i] + sum * factor;
      }
    }
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
