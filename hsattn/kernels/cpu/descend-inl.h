// Down the pyramid: which nodes of a level are active, and how they rank.
#pragma once

#include "hsattn/kernels/cpu/cell-inl.h"
#include "hsattn/kernels/cpu/rounded-inl.h"

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
  std::int32_t* ids = c.s.ids;
  std::uint8_t* may = c.s.may;
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

// The item of node `id`, whose unit is added behind the others unless it is among the last few of them from `begin` on.
static Index item_of(Cell& c, Index id, Index begin, std::int32_t* ids, std::uint8_t* may) {
  const Index unit = id & ~(kUnit - 1);
  for (Index i = c.count - kUnit; i >= begin && i >= c.count - 2 * kQuad * kUnit; i -= kUnit) {
    if (ids[i] == unit) return i + id - unit;
  }
  for (Index j = 0; j < kUnit; ++j) push(c, ids, may, unit + j, 0);
  return c.count - kUnit + id - unit;
}

// Nodes of the level that lie in a range whose parents do not: the odd one at the inner edge of each range.
static void push_rest(Cell& c, std::int32_t* ids, std::uint8_t* may, Index level, Index from, bool right) {
  for (int p = 0; p < c.positions; ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    const Index end = c.left[p].end >> level, begin = ceil_shift(c.right[p].begin, level);
    Index id = -1;
    if (!right && end % 2 == 1) id = end - 1;
    if (right && c.right[p].size() > 0 && begin % 2 == 1 && begin < c.nodes(level)) id = begin;
    if (id < 0) continue;
    const Index item = item_of(c, id, from, ids, may);
    may[item] = static_cast<std::uint8_t>(may[item] | 1U << p);
  }
}

// Each of 4 bytes twice.
HSATTN_INLINE std::uint64_t spread_bytes(std::uint32_t four) {
  std::uint64_t x = four;
  x = (x | x << 16) & 0x0000ffff0000ffffULL;
  x = (x | x << 8) & 0x00ff00ff00ff00ffULL;
  return x | x << 8;
}

// Appends the children of the chosen items among [begin, end): the 8 children of 4 nodes are a unit. Without branches,
// as in narrow_to_chosen().
static void push_children(Cell& c, Index begin, Index end) {
  const std::int32_t* old_ids = c.s.ids;
  const std::uint8_t* old_chosen = c.s.chosen;
  std::int32_t* ids = c.s.next_ids;
  std::uint8_t* may = c.s.next_may;
  Index count = c.count;
  for (Index i = begin; i < end; i += kQuad) {
    std::uint32_t chosen = 0;
    __builtin_memcpy(&chosen, old_chosen + i, sizeof chosen);
    const std::int32_t first = 2 * old_ids[i];
    for (std::int32_t j = 0; j < kUnit; ++j) ids[count + j] = first + j;
    const std::uint64_t wide = spread_bytes(chosen);
    __builtin_memcpy(may + count, &wide, sizeof wide);
    count += chosen != 0 ? kUnit : 0;
  }
  c.count = count;
}

// Items become the units of what was chosen and of the rest of the level below.
static void open_children(Cell& c, Index level) {
  Scratch& s = c.s;
  std::int32_t* ids = s.next_ids;
  std::uint8_t* may = s.next_may;
  const Index old_count = c.count, old_right = min_of(c.right_begin, c.count);
  c.count = 0;
  push_children(c, 0, old_right);
  push_rest(c, ids, may, level, 0, false);
  c.right_begin = c.count;
  push_rest(c, ids, may, level, c.right_begin, true);
  for (Index i = old_right; i < old_count; ++i) {
    if (s.chosen[i] == 0) continue;
    const Index item = item_of(c, Index{2} * s.ids[i], c.right_begin, ids, may);
    may[item] = static_cast<std::uint8_t>(may[item] | s.chosen[i]);
    may[item + 1] = static_cast<std::uint8_t>(may[item + 1] | s.chosen[i]);
  }
  forbid_items(ids, may, c.count, 0, c.nodes(level));
  for (Index j = 0; c.count % kPanel != 0; j = (j + 1) % kUnit) push(c, ids, may, j, 0);
  exchange(s.ids, s.next_ids);
  exchange(s.may, s.next_may);
}

// A ragged node (or part of one) stands for fewer tokens than the others, which stand for `full` each.
static void add_ragged_bias(Cell& c, Index full) {
  const PlanShape& shape = c.job.shape;
  const Index last = (shape.keys + full - 1) / full - 1, tokens = shape.keys - last * full;
  if (shape.causal || tokens >= full) return;
  const float bias = __builtin_logf(static_cast<float>(tokens) / static_cast<float>(full));
  for (Index i = 0; i < c.count; ++i) {
    if (c.s.ids[i] != last || c.s.may[i] == 0) continue;
    for (Index r = 0; r < c.rows(); ++r) c.s.scores[r * c.s.capacity + i] += bias;
  }
}

// q . key mean of every item, for all rows of the cell.
static void score_items(Cell& c, Index level) {
  const PackedLevel& nodes = c.pyramid().level[level];
  rounded_scores(c, RoundedUnits{nodes.keys_int8, nodes.key_scales}, c.count / kUnit,
                 [&](Index unit) { return c.s.ids[unit * kUnit] / kUnit; });
  add_ragged_bias(c, c.job.shape.node << level);
}

// exp of the scores of items that the position may choose, relative to 2^exponent, in their place. Returns their sum as
// an integer of 2^-20: its value does not depend on what else is in the cell.
template <bool kHuge>
static std::int64_t weigh_items(const Cell& c, unsigned p, float exponent, float* score) {
  const F m = set1(exponent), floor = set1(negligible_below<kHuge>(exponent));
  I sum = int_zero();
  std::int64_t total = 0;
  for (Index i = 0; i < c.count; i += kLanes) {
    const F x = load(score + i);
    const M ok = both(lanes_with_bit(c.s.may + i, p), finite(x));
    const F w = select(ok, exp_minus<kHuge>(max_keep_nan(floor, x), m), zero());
    store(score + i, w);
    sum = int_add(sum, to_fixed_point(w));
    if (i % (kLanes * 1024) == kLanes * 1023) {
      total += int_sum(sum);
      sum = int_zero();
    }
  }
  return total + int_sum(sum);
}

// Softmax mass of each item in one row over the items that the position may choose, added to `mass`.
static void add_node_mass(Cell& c, unsigned p, float* score, float* mass, bool first_head) {
  F top = set1(kMasked);
  for (Index i = 0; i < c.count; i += kLanes) {
    const F x = load(score + i);
    top = max_keep_nan(top, select(both(lanes_with_bit(c.s.may + i, p), finite(x)), x, set1(kMasked)));
  }
  const float exponent = exponent_above(max_of(reduce_max(top), -1.0e38F));
  const bool huge = exponent > kHugeExponent || exponent < -kHugeExponent;
  const std::int64_t total =
      huge ? weigh_items<true>(c, p, exponent, score) : weigh_items<false>(c, p, exponent, score);
  const F factor = set1(total > 0 ? 1048576.0F / static_cast<float>(total) : 0.0F);
  for (Index i = 0; i < c.count; i += kLanes) {
    const F old = first_head ? zero() : load(mass + i);
    store(mass + i, fma(load(score + i), factor, old));
  }
}

// Masses of the items for position p, summed over its heads.
static void find_node_masses(Cell& c, unsigned p, float* mass) {
  float* scores = c.s.scores + static_cast<Index>(p) * c.job.group * c.s.capacity;
  for (Index h = 0; h < c.job.group; ++h) add_node_mass(c, p, scores + h * c.s.capacity, mass, h == 0);
}

// The scores by which position p ranks the items: those of its one head, or masses summed over its heads.
static const float* rank_of_nodes(Cell& c, unsigned p, bool as_mass) {
  if (c.job.group == 1 && !as_mass) return c.s.scores + static_cast<Index>(p) * c.s.capacity;
  float* mass = c.s.mass + static_cast<Index>(p) * c.s.capacity;
  find_node_masses(c, p, mass);
  return mass;
}

// Items become their parts: those of item i are items [parts i, parts (i + 1)), in units as before.
static void open_parts(Cell& c) {
  const Index parts = c.job.shape.parts, count = c.count;
  const std::int32_t* ids = c.s.ids;
  const std::uint8_t* may = c.s.may;
  std::int32_t* part_ids = c.s.next_ids;
  std::uint8_t* part_may = c.s.next_may;
  for (Index i = 0; i < count; ++i) {
    for (Index j = 0; j < parts; ++j) {
      part_ids[i * parts + j] = static_cast<std::int32_t>(ids[i] * parts + j);
      part_may[i * parts + j] = may[i];
    }
  }
  c.count = count * parts;
  forbid_items(part_ids, part_may, c.count, 0, (c.job.shape.keys + c.job.shape.part() - 1) / c.job.shape.part());
  exchange(c.s.ids, c.s.next_ids);
  exchange(c.s.may, c.s.next_may);
}

// Masses of the smallest nodes for each position: the sums of those of their parts.
static void score_parts(Cell& c) {
  const PackedLevel& level = c.pyramid().parts;
  const Index count = c.count;
  open_parts(c);
  // Nodes come in units that may be ragged, so of parts there are whole units that do not exist: the first in their
  // place.
  const auto unit_of = [&](Index unit) -> Index {
    std::uint64_t may;
    __builtin_memcpy(&may, c.s.may + unit * kUnit, sizeof may);
    return may == 0 ? 0 : c.s.ids[unit * kUnit] / kUnit;
  };
  rounded_scores(c, RoundedUnits{level.keys_int8, level.key_scales}, c.count / kUnit, unit_of);
  add_ragged_bias(c, c.job.shape.part());
  for (unsigned p = 0; p < static_cast<unsigned>(c.positions); ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    float* mass = c.s.mass + static_cast<Index>(p) * c.s.capacity;
    find_node_masses(c, p, c.s.spare);
    add_block_masses(c.job.shape.parts, c.s.spare, count, 1.0F, true, mass);
  }
  exchange(c.s.ids, c.s.next_ids);
  exchange(c.s.may, c.s.next_may);
  c.count = count;
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
