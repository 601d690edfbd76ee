// Down the pyramid: which nodes of a level are active, and how they rank.
#pragma once

#include "hsattn/kernels/cpu/cell-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// The finest level on which at most top_nodes nodes cover the position's past, or the level that the options name.
static Index start_level(const Cell& c, int p) {
  const Index top = c.pyramid().levels - 1;
  if (c.job.search.start_level >= 0) return min_of(c.job.search.start_level, top);
  Index level = 0;
  while (level < top) {
    const Index right = c.right[p].size() > 0 ? c.nodes(level) - ceil_shift(c.right[p].begin, level) : 0;
    if ((c.left[p].end >> level) + right <= c.job.search.top_nodes) break;
    ++level;
  }
  return level;
}

// Active positions that may choose node `id` of a level, before their near run or behind it.
static unsigned who_may(const Cell& c, Index level, Index id, bool right) {
  unsigned mask = 0;
  for (int p = 0; p < c.positions; ++p) {
    const bool inside =
        right ? c.right[p].size() > 0 && id >= ceil_shift(c.right[p].begin, level) : id < c.left[p].end >> level;
    mask |= inside ? c.active & (1U << p) : 0U;
  }
  return mask;
}

// All nodes of one level inside the ranges of the active positions.
static void open_level(Cell& c, Index level) {
  std::int32_t* ids = c.s.ids.get();
  std::uint8_t* may = c.s.may.get();
  Index common = c.nodes(level), left_end = 0, right_begin = c.nodes(level);
  for (int p = 0; p < c.positions; ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    common = min_of(common, c.left[p].end >> level);
    left_end = max_of(left_end, c.left[p].end >> level);
    if (c.right[p].size() > 0) right_begin = min_of(right_begin, ceil_shift(c.right[p].begin, level));
  }
  for (Index id = 0; id < common; ++id) ids[id] = static_cast<std::int32_t>(id);
  __builtin_memset(may, static_cast<int>(c.active), static_cast<std::size_t>(common));
  c.count = common;
  for (Index id = common; id < left_end; ++id) push(c, ids, may, id, who_may(c, level, id, false));
  pad_items(c, ids, may, kPanel);
  c.right_begin = c.count;
  for (Index id = right_begin & ~(kUnit - 1); id < c.nodes(level) && right_begin < c.nodes(level); ++id) {
    push(c, ids, may, id, who_may(c, level, id, true));
  }
  pad_items(c, ids, may, kPanel);
}

// Nodes of the level that lie in a range whose parents do not: the odd one at the inner edge of each range.
static void push_rest(Cell& c, std::int32_t* ids, std::uint8_t* may, Index level, bool right) {
  Index at[kQuad];
  for (int p = 0; p < c.positions; ++p) {
    at[p] = -1;
    if ((c.active >> p & 1U) == 0) continue;
    if (!right && (c.left[p].end >> level) % 2 == 1) at[p] = (c.left[p].end >> level) - 1;
    const Index begin = ceil_shift(c.right[p].begin, level);
    if (right && c.right[p].size() > 0 && begin % 2 == 1 && begin < c.nodes(level)) at[p] = begin;
  }
  for (int p = 0; p < c.positions; ++p) {
    if (at[p] < 0) continue;
    unsigned mask = 0;
    for (int o = p; o < c.positions; ++o) {
      if (at[o] != at[p] || (o != p && at[p] < 0)) continue;
      mask |= 1U << o;
    }
    push(c, ids, may, at[p], mask);
    for (int o = p + 1; o < c.positions; ++o) at[o] = (mask >> o & 1U) != 0 ? -1 : at[o];
  }
}

// Appends the children of the chosen items among [begin, end). Without branches, as in narrow_to_chosen().
static void push_children(Cell& c, Index begin, Index end, Index nodes) {
  std::int32_t* ids = c.s.next_ids.get();
  std::uint8_t* may = c.s.next_may.get();
  Index count = c.count;
  for (Index i = begin; i < end; ++i) {
    const std::uint8_t chosen = c.s.chosen[i];
    const std::int32_t child = 2 * c.s.ids[i];
    ids[count] = child;
    ids[count + 1] = child + 1;
    may[count] = may[count + 1] = chosen;
    count += chosen == 0 ? 0 : child + 1 < nodes ? 2 : 1;
  }
  c.count = count;
}

// Items become the children of what was chosen, plus the rest of the level below.
static void open_children(Cell& c, Index level) {
  Scratch& s = c.s;
  const Index old_count = c.count, old_right = min_of(c.right_begin, c.count);
  c.count = 0;
  push_children(c, 0, old_right, c.nodes(level));
  push_rest(c, s.next_ids.get(), s.next_may.get(), level, false);
  c.right_begin = c.count;
  push_rest(c, s.next_ids.get(), s.next_may.get(), level, true);
  push_children(c, old_right, old_count, c.nodes(level));
  pad_items(c, s.next_ids.get(), s.next_may.get(), kDimAlign);
  s.ids.swap(s.next_ids);
  s.may.swap(s.next_may);
}

// A ragged node stands for fewer tokens than the others of its level.
static void add_ragged_bias(Cell& c, Index level) {
  const PlanShape& shape = c.job.shape;
  const Index full = shape.block << level;
  const Index last = c.nodes(level) - 1, tokens = shape.keys - last * full;
  if (shape.causal || tokens >= full) return;
  const float bias = __builtin_logf(static_cast<float>(tokens) / static_cast<float>(full));
  for (Index i = 0; i < c.count; ++i) {
    if (c.s.ids[i] != last || c.s.may[i] == 0) continue;
    for (Index r = 0; r < c.rows(); ++r) c.s.scores[r * c.s.capacity + i] += bias;
  }
}

// q . key mean of every item, for all rows of the cell. Whole levels are scored from transposed panels, gathered nodes
// from rows: which of the two depends only on the position and the level.
static void score_items(Cell& c, Index level, bool whole_level) {
  const Index dim = c.job.packed->dim, padded = c.job.packed->padded_dim, capacity = c.s.capacity;
  const PackedPyramid& p = c.pyramid();
  if (whole_level) {
    for (Index i = 0; i < c.count; i += kPanel) {
      const float* unit[kPanelUnits];
      const float* first = p.key_panels.get() + (p.first_panel[level] + c.s.ids[i] / kUnit) * dim * kUnit;
      for (int u = 0; u < kPanelUnits; ++u) unit[u] = first + u * dim * kUnit;
      for (Index r = 0; r < c.rows(); r += kQuad) {
        scores_of_panel(c.q + r * padded, padded, dim, unit, c.s.scores.get() + r * capacity + i, capacity);
      }
    }
  } else {
    for (Index i = 0; i < c.count; i += 4) {
      const float* row[4];
      for (int j = 0; j < 4; ++j) row[j] = p.keys.get() + (p.first[level] + c.s.ids[i + j]) * padded;
      for (Index r = 0; r < c.rows(); r += kQuad) {
        dots_of_rows(c.q + r * padded, padded, row, c.s.scores.get() + r * capacity + i, capacity);
      }
    }
  }
  add_ragged_bias(c, level);
}

// Softmax mass of each item in one row over the items that the position may choose, added to `mass`. The denominator is
// summed in integers: its value does not depend on what else is in the cell.
static void add_node_mass(Cell& c, unsigned p, float* score, float* mass, bool first_head) {
  F top = set1(kMasked);
  for (Index i = 0; i < c.count; i += kLanes) {
    const F x = load(score + i);
    top = max_keep_nan(top, select(both(lanes_with_bit(c.s.may.get() + i, p), finite(x)), x, set1(kMasked)));
  }
  const float exponent = exponent_above(max_of(reduce_max(top), -1.0e38F));
  const F m = set1(exponent), floor = set1(negligible_below<true>(exponent));
  I sum = int_zero();
  std::int64_t total = 0;
  for (Index i = 0; i < c.count; i += kLanes) {
    const F x = load(score + i);
    const M ok = both(lanes_with_bit(c.s.may.get() + i, p), finite(x));
    const F w = select(ok, exp_minus<true>(max_keep_nan(floor, x), m), zero());
    store(score + i, w);
    sum = int_add(sum, to_fixed_point(w));
    if (i % (kLanes * 1024) == kLanes * 1023) {
      total += int_sum(sum);
      sum = int_zero();
    }
  }
  total += int_sum(sum);
  const F factor = set1(total > 0 ? 1048576.0F / static_cast<float>(total) : 0.0F);
  for (Index i = 0; i < c.count; i += kLanes) {
    const F old = first_head ? zero() : load(mass + i);
    store(mass + i, fma(load(score + i), factor, old));
  }
}

// The scores by which position p ranks the items: those of its one head, or masses summed over its heads.
static const float* rank_of_nodes(Cell& c, unsigned p) {
  float* scores = c.s.scores.get() + static_cast<Index>(p) * c.job.group * c.s.capacity;
  if (c.job.group == 1) return scores;
  float* mass = c.s.mass.get() + static_cast<Index>(p) * c.s.capacity;
  for (Index h = 0; h < c.job.group; ++h) add_node_mass(c, p, scores + h * c.s.capacity, mass, h == 0);
  return mass;
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
