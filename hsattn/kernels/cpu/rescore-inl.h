// Softmax masses of candidates' blocks, from scores of all their tokens with queries and keys rounded to bytes.
#pragma once

#include "hsattn/kernels/cpu/cell-inl.h"
#include "hsattn/kernels/cpu/rounded-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// One bit for each position becomes one byte for each: 0xff where it is set.
constexpr std::uint32_t kBytesOfBits[16] = {0x00000000, 0x000000ff, 0x0000ff00, 0x0000ffff, 0x00ff0000, 0x00ff00ff,
                                            0x00ffff00, 0x00ffffff, 0xff000000, 0xff0000ff, 0xff00ff00, 0xff00ffff,
                                            0xffff0000, 0xffff00ff, 0xffffff00, 0xffffffff};

// Whether masses are shares of the attention: several heads are added up so, and a mass budget needs them.
static bool normalised(const Cell& c) { return c.job.group > 1 || c.job.search.mass > 0; }

// Whether each candidate is one unit, all of whose lanes exist.
static bool nodes_are_units(const Cell& c) {
  const PlanShape& shape = c.job.shape;
  return shape.node == kUnit && (shape.causal || shape.keys % kUnit == 0);
}

// The units of one range of tokens for each active position.
static Index list_units(const Cell& c, const Range* tokens, Entry* out) {
  Index begin = c.job.shape.keys, end = 0, units = 0;
  for (int p = 0; p < c.positions; ++p) {
    if ((c.active >> p & 1U) == 0 || tokens[p].end <= tokens[p].begin) continue;
    begin = min_of(begin, tokens[p].begin);
    end = max_of(end, tokens[p].end);
  }
  for (Index unit = begin / kUnit; unit * kUnit < end; ++unit) {
    std::uint32_t bytes = 0;
    for (int p = 0; p < c.positions; ++p) {
      if ((c.active >> p & 1U) == 0) continue;
      bytes |= lane_bits(tokens[p].begin - unit * kUnit, tokens[p].end - unit * kUnit) << (8 * p);
    }
    out[units++] = {static_cast<std::int32_t>(unit), bytes};
  }
  return units;
}

// The units of the sinks before (and behind) the near runs.
static Index list_sink_units(const Cell& c, Entry* out) {
  const Index node = c.job.shape.node, sinks = c.job.search.sinks;
  Range before[kQuad], behind[kQuad];
  for (int p = 0; p < c.positions; ++p) {
    before[p] = {0, min_of(sinks, c.left[p].end) * node};
    behind[p] = {c.right[p].begin * node, min_of(sinks * node, c.job.shape.keys)};
  }
  const Index units = list_units(c, before, out);
  return units + list_units(c, behind, out + units);
}

// The units of all candidates, then what masses are normalised over besides, then padding to whole panels. Byte p of
// the lanes belongs to position p.
static Index list_candidate_units(Cell& c, Index count) {
  const PlanShape& shape = c.job.shape;
  const Index per_node = units_of_node(c);
  Entry* out = c.s.cell_entries;
  const bool plain = nodes_are_units(c);
  Index units = plain ? (count + kPanelUnits - 1) / kPanelUnits * kPanelUnits : 0;
  for (Index i = 0; i < units; ++i) out[i] = {c.s.ids[i], kBytesOfBits[c.s.may[i] & 15U]};  // the padding's are none
  for (Index i = 0; !plain && i < count; ++i) {
    const Index begin = c.s.ids[i] * shape.node, end = min_of(shape.keys, begin + shape.node);
    const std::uint32_t who = kBytesOfBits[c.s.may[i] & 15U];
    for (Index u = 0; u < per_node; ++u) {
      const Index unit = begin / kUnit + u;
      const std::uint32_t lanes = lane_bits(begin - unit * kUnit, end - unit * kUnit) * 0x01010101U;
      out[units++] = {static_cast<std::int32_t>(unit * kUnit < shape.keys ? unit : 0), who & lanes};
    }
  }
  if (normalised(c)) units += list_units(c, c.near, out + units);
  if (c.job.search.mass > 0) units += list_sink_units(c, out + units);
  while (units % kPanelUnits != 0) out[units++] = {0, 0};
  return units;
}

// The lanes of each unit that position p may choose: c.s.unit_lanes.
static void find_unit_lanes(const Cell& c, int p, Index units) {
  const Entry* entries = c.s.cell_entries;
  std::uint8_t* lanes = c.s.unit_lanes;
  for (Index u = 0; u < units; ++u) lanes[u] = static_cast<std::uint8_t>(entries[u].lanes >> (8 * p));
}

// The largest score of lanes that may be chosen; of finite ones if asked for, else NaN count nothing.
template <bool kFinite>
static float largest_of_lanes(const Cell& c, const float* score, Index units) {
  F top[kVectors];
  for (F& t : top) t = set1(kMasked);
  for (Index u = 0; u < units; u += kPanelUnits) {
    for (int v = 0; v < kVectors; ++v) {
      const F x = load(score + u * kUnit + v * kLanes);
      M ok = lanes_of(c.s.unit_lanes + u + v * kUnitsPerVector);
      if constexpr (kFinite) ok = both(ok, finite(x));
      top[v] = max_keep_nan(select(ok, x, set1(kMasked)), top[v]);
    }
  }
  F all = top[0];
  for (int v = 1; v < kVectors; ++v) all = max_keep_nan(all, top[v]);
  return reduce_max(all);
}

// The largest finite score that the position of c.s.unit_lanes may choose.
static float largest_score(const Cell& c, const float* score, Index units) {
  constexpr float kLargest = 3.4e38F;
  float top = largest_of_lanes<false>(c, score, units);
  if (top > kLargest) top = largest_of_lanes<true>(c, score, units);
  return max_of(top, -1.0e38F);
}

// The sum of the masses of units that position p may choose, as integers of 2^-20.
static std::int64_t sum_of_units(const Cell& c, int p, const float* unit_mass, Index units) {
  constexpr Index kAtOnce = 64 * kLanes;  // masses are at most 8: so many do not overflow a lane
  std::int64_t total = 0;
  for (Index begin = 0; begin < units; begin += kAtOnce) {
    I sum = int_zero();
    for (Index u = begin; u < min_of(units, begin + kAtOnce); u += kLanes) {
      const M may = lanes_with_bit(c.s.may + u, static_cast<unsigned>(p));
      sum = int_add(sum, to_fixed_point(select(may, load(unit_mass + u), zero())));
    }
    total += int_sum(sum);
  }
  return total;
}

// Weights of one vector of scores, of unit u: of lanes that the position may choose and whose scores are finite.
template <bool kHuge>
HSATTN_INLINE F weights_of_lanes(const Cell& c, Index u, F x, F m, F floor) {
  const M ok = both(lanes_of(c.s.unit_lanes + u), finite(x));
  return select(ok, exp_minus<kHuge>(max_keep_nan(floor, x), m), zero());
}

// The sum of the weights of lanes that the position may choose, among those of units [begin, end), as integers of
// 2^-20.
template <bool kHuge>
static std::int64_t sum_of_lanes(const Cell& c, const float* score, Index begin, Index end, float exponent) {
  const F m = set1(exponent), floor = set1(negligible_below<kHuge>(exponent));
  std::int64_t total = 0;
  for (Index u = begin; u < end; u += kPanelUnits) {
    I sum = int_zero();
    for (int v = 0; v < kVectors; ++v) {
      const F x = load(score + u * kUnit + v * kLanes);
      sum = int_add(sum, to_fixed_point(weights_of_lanes<kHuge>(c, u + v * kUnitsPerVector, x, m, floor)));
    }
    total += int_sum(sum);
  }
  return total;
}

// What a row's scores become: sums over the lanes of each unit, or weights token by token.
enum class MassOf { kUnits, kTokens };

// exp of the lanes that position p may choose, relative to a power of two near the largest; scores that are not finite
// count nothing. Returns the factor that normalises them. With kWhole, for a single head whose units are seen whole or
// not at all, the factor is 1, and units that the position may not choose get rubbish. `out` may be `score`.
template <MassOf kOf, bool kHuge, bool kWhole>
static float unit_masses(const Cell& c, const float* score, Index units, float exponent, float* out) {
  const F m = set1(exponent), floor = set1(negligible_below<kHuge>(exponent));
  std::int64_t total = 0;
  I sum = int_zero();
  for (Index u = 0; u < units; u += kPanelUnits) {
    F weights[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const F x = load(score + u * kUnit + v * kLanes);
      F w;
      if constexpr (kWhole) {
        w = exp_minus<kHuge>(max_keep_nan(floor, x), m);
      } else {
        w = weights_of_lanes<kHuge>(c, u + v * kUnitsPerVector, x, m, floor);
        sum = int_add(sum, to_fixed_point(w));
      }
      weights[v] = w;
      if constexpr (kOf == MassOf::kTokens) store(out + u * kUnit + v * kLanes, w);
    }
    if constexpr (kOf == MassOf::kUnits) half_store(out + u, sums_of_units(weights));
    if (!kWhole && u % 2048 == 2040) {
      total += int_sum(sum);
      sum = int_zero();
    }
  }
  if constexpr (kWhole) return 1.0F;
  total += int_sum(sum);
  return total > 0 ? 1048576.0F / static_cast<float>(total) : 1.0F;
}

// The same where candidates are units: their weights are masked unit by unit, and only those of what follows them lane
// by lane. Weights of units that the position may not choose are left in `out`.
template <MassOf kOf, bool kHuge>
static float masses_of_plain_units(const Cell& c, int p, const float* score, Index units, float exponent, float* out) {
  const Index candidates = (items(c) + kPanelUnits - 1) / kPanelUnits * kPanelUnits;
  float* const unit_mass = kOf == MassOf::kUnits ? out : c.s.unit_mass;
  const F m = set1(exponent), floor = set1(negligible_below<kHuge>(exponent));
  for (Index u = 0; u < candidates; u += kPanelUnits) {
    F weights[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const F x = load(score + u * kUnit + v * kLanes);
      weights[v] = select(finite(x), exp_minus<kHuge>(max_keep_nan(floor, x), m), zero());
      if constexpr (kOf == MassOf::kTokens) store(out + u * kUnit + v * kLanes, weights[v]);
    }
    half_store(unit_mass + u, sums_of_units(weights));
  }
  const std::int64_t total =
      sum_of_units(c, p, unit_mass, candidates) + sum_of_lanes<kHuge>(c, score, candidates, units, exponent);
  return total > 0 ? 1048576.0F / static_cast<float>(total) : 1.0F;
}

template <MassOf kOf>
static float masses_of_row(const Cell& c, int p, const float* score, Index units, float* out,
                           float* largest = nullptr) {
  const float top = largest_score(c, score, units), exponent = exponent_above(top);
  if (largest != nullptr) *largest = top;
  const bool huge = exponent > kHugeExponent || exponent < -kHugeExponent;
  const bool whole =
      c.job.shape.node >= kUnit && c.job.shape.tail == 0 && (c.job.shape.causal || c.job.shape.keys % kUnit == 0);
  if (!normalised(c) && whole && !huge) return unit_masses<kOf, false, true>(c, score, units, exponent, out);
  if (nodes_are_units(c)) {
    return huge ? masses_of_plain_units<kOf, true>(c, p, score, units, exponent, out)
                : masses_of_plain_units<kOf, false>(c, p, score, units, exponent, out);
  }
  return huge ? unit_masses<kOf, true, false>(c, score, units, exponent, out)
              : unit_masses<kOf, false, false>(c, score, units, exponent, out);
}

// Masses of the blocks of each candidate, of row `row` of the cell, whose scores become weights.
static void add_masses_of_parts(const Cell& c, int p, Index row, Index units, Index count, bool first, float* mass) {
  const PlanShape& shape = c.job.shape;
  const Index per_node = shape.blocks_of_node(), row0 = (c.q - c.s.q) / c.job.packed->padded_dim;
  float* score = c.s.scores + row * c.s.capacity;
  float* largest = shape.tail > 0 ? c.s.tail_max + row0 + row : nullptr;
  const float factor = masses_of_row<MassOf::kTokens>(c, p, score, units, score, largest);
  if (shape.node >= kUnit) return add_block_masses(shape.block, score, count * per_node, factor, first, mass);
  for (Index i = 0; i < count; ++i) {
    const float* weights = score + i * kUnit + c.s.ids[i] * shape.node % kUnit;
    add_block_masses(shape.block, weights, per_node, factor, first, mass + i * per_node);
  }
}

// Masses of whole candidates, of one row.
static void add_masses_of_nodes(const Cell& c, int p, const float* score, Index units, Index count, bool first,
                                float* mass) {
  const Index per_node = units_of_node(c);
  float* unit_mass = c.s.unit_mass;
  const float factor = masses_of_row<MassOf::kUnits>(c, p, score, units, unit_mass);
  for (Index i = 0; i < count; ++i) {
    float sum = unit_mass[i * per_node];
    for (Index u = 1; u < per_node; ++u) sum += unit_mass[i * per_node + u];
    mass[i] = first ? sum * factor : mass[i] + sum * factor;
  }
}

// Masses of the candidates' blocks, summed over the heads of each position.
static void rescore(Cell& c) {
  const bool parts = c.job.shape.blocks_of_node() > 1 || c.job.shape.tail > 0;
  const Index count = items(c);
  const Index units = list_candidate_units(c, count);
  const PackedHead& head = *c.job.packed;
  const auto unit_of = [&](Index unit) { return c.s.cell_entries[unit].unit; };
  if (head.keys_int8.empty()) {
    rounded_scores(c, RoundedHere(head), units, unit_of);
  } else {
    rounded_scores(c, RoundedUnits{head.keys_int8, head.key_scales}, units, unit_of);
  }
  for (int p = 0; p < c.positions; ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    find_unit_lanes(c, p, units);
    float* mass = c.s.mass + p * c.s.capacity;
    const float* score = c.s.scores + p * c.job.group * c.s.capacity;
    if (!normalised(c) && !parts && units_of_node(c) == 1) {
      masses_of_row<MassOf::kUnits>(c, p, score, units, mass);
      continue;
    }
    for (Index h = 0; h < c.job.group; ++h) {
      if (parts) {
        add_masses_of_parts(c, p, p * c.job.group + h, units, count, h == 0, mass);
      } else {
        add_masses_of_nodes(c, p, score + h * c.s.capacity, units, count, h == 0, mass);
      }
    }
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
