// The search: descend the pyramid, rescore, keep; every position for itself (docs/design.md, "Selection").
//
// A cell of up to 4 positions (times the group's heads: whole quads of rows) is scored together over the union of what
// its positions may choose; byte masks say which position may choose what. Sums over a position's own items are either
// exact (integers) or over one unit in a fixed order, so no list depends on which positions share a cell.
#pragma once

#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/micro-inl.h"
#include "hsattn/kernels/cpu/top_k-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

struct Cell {
  const HeadJob& job;
  Scratch& s;
  const float* q;       // [4 group, padded dim]; row = position * group + head
  Index positions = 0;  // of the cell
  Range left[kQuad] = {}, right[kQuad] = {};
  Index near_begin[kQuad] = {}, near_end[kQuad] = {};
  unsigned active = 0;    // positions that search in this pass, one bit each
  Index count = 0;        // items in ids, a multiple of 16; padding may be chosen by nobody
  Index right_begin = 0;  // first item of the right range

  const PackedPyramid& pyramid() const { return job.packed->pyramid; }
  Index nodes(Index level) const { return pyramid().first[level + 1] - pyramid().first[level]; }
  Index rows() const { return (positions * job.group + kQuad - 1) / kQuad * kQuad; }
};

static Index ceil_shift(Index x, Index level) { return (x + (Index{1} << level) - 1) >> level; }

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

static void push(Cell& c, std::int32_t* ids, std::uint8_t* may, Index id, unsigned mask) {
  ids[c.count] = static_cast<std::int32_t>(id);
  may[c.count++] = static_cast<std::uint8_t>(mask);
}

static void pad_items(Cell& c, std::int32_t* ids, std::uint8_t* may, Index multiple) {
  while (c.count % multiple != 0) push(c, ids, may, 0, 0);
}

// All nodes of one level inside the ranges of the active positions.
static void open_level(Cell& c, Index level) {
  std::int32_t* ids = c.s.ids.get();
  std::uint8_t* may = c.s.may.get();
  c.count = 0;
  Index left_end = 0, right_begin = c.nodes(level);
  for (int p = 0; p < c.positions; ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    left_end = max_of(left_end, c.left[p].end >> level);
    if (c.right[p].size() > 0) right_begin = min_of(right_begin, ceil_shift(c.right[p].begin, level));
  }
  const auto mask_of = [&](Index id, bool right) {
    unsigned mask = 0;
    for (int p = 0; p < c.positions; ++p) {
      const bool inside =
          right ? c.right[p].size() > 0 && id >= ceil_shift(c.right[p].begin, level) : id < c.left[p].end >> level;
      mask |= inside ? c.active & (1U << p) : 0U;
    }
    return mask;
  };
  const unsigned everyone = c.active;
  Index common = left_end;
  for (int p = 0; p < c.positions; ++p) {
    if ((c.active >> p & 1U) != 0) common = min_of(common, c.left[p].end >> level);
  }
  for (Index id = 0; id < left_end; ++id) push(c, ids, may, id, id < common ? everyone : mask_of(id, false));
  pad_items(c, ids, may, kPanel);
  c.right_begin = c.count;
  for (Index id = right_begin & ~(kUnit - 1); id < c.nodes(level) && right_begin < c.nodes(level); ++id) {
    push(c, ids, may, id, mask_of(id, true));
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

// Items become the children of what was chosen, plus the rest of the level below.
static void open_children(Cell& c, Index level) {
  Scratch& s = c.s;
  const Index old_count = c.count, old_right = c.right_begin;
  c.count = 0;
  for (Index i = 0; i < old_count; ++i) {
    if (i == old_right) {
      push_rest(c, s.next_ids.get(), s.next_may.get(), level, false);
      c.right_begin = c.count;
      push_rest(c, s.next_ids.get(), s.next_may.get(), level, true);
    }
    if (s.chosen[i] == 0) continue;
    const Index child = Index{2} * s.ids[i];
    push(c, s.next_ids.get(), s.next_may.get(), child, s.chosen[i]);
    if (child + 1 < c.nodes(level)) push(c, s.next_ids.get(), s.next_may.get(), child + 1, s.chosen[i]);
  }
  if (old_right >= old_count) {
    push_rest(c, s.next_ids.get(), s.next_may.get(), level, false);
    c.right_begin = c.count;
    push_rest(c, s.next_ids.get(), s.next_may.get(), level, true);
  }
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

static void choose(Cell& c, Index k, std::size_t stage, bool by_mass) {
  __builtin_memset(c.s.chosen.get(), 0, static_cast<std::size_t>(c.count));
  for (unsigned p = 0; p < static_cast<unsigned>(c.positions); ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    const float* rank = by_mass ? c.s.mass.get() + static_cast<Index>(p) * c.s.capacity : rank_of_nodes(c, p);
    top_k(rank, c.s.may.get(), p, c.count, k, c.s.work.get(), c.s.spare.get(), &c.s.hints[stage], c.s.chosen.get());
  }
}

// Largest number of items that one position may choose.
static Index most_allowed(const Cell& c) {
  Index most = 0;
  for (unsigned p = 0; p < static_cast<unsigned>(c.positions); ++p) {
    Index allowed = 0;
    for (Index i = 0; i < c.count; i += kLanes) {
      allowed += __builtin_popcount(bits(lanes_with_bit(c.s.may.get() + i, p)));
    }
    most = max_of(most, allowed);
  }
  return most;
}

static void choose_all(Cell& c) {
  __builtin_memcpy(c.s.chosen.get(), c.s.may.get(), static_cast<std::size_t>(c.count));
}

// Keeps only the chosen items.
static void narrow_to_chosen(Cell& c) {
  const Index old_count = c.count;
  c.count = 0;
  for (Index i = 0; i < old_count; ++i) {
    if (c.s.chosen[i] != 0) push(c, c.s.ids.get(), c.s.may.get(), c.s.ids[i], c.s.chosen[i]);
  }
  pad_items(c, c.s.ids.get(), c.s.may.get(), kDimAlign);
}

// One bit for each position becomes one byte for each: 0xff where set, cut to `lanes`.
static std::uint32_t bytes_of_bits(unsigned mask, std::uint32_t lanes) {
  std::uint32_t bytes = 0;
  for (unsigned p = 0; p < 4; ++p) bytes |= (mask >> p & 1U) != 0 ? lanes << (8 * p) : 0U;
  return bytes;
}

static std::uint32_t lanes_between(Index begin, Index end) {
  const Index a = min_of<Index>(max_of<Index>(begin, 0), kUnit), b = min_of<Index>(max_of<Index>(end, 0), kUnit);
  return a >= b ? 0U : ((1U << b) - 1U) & ~((1U << a) - 1U);
}

// Items without the padding at their end.
static Index items(const Cell& c) {
  Index count = c.count;
  while (count > 0 && c.s.may[count - 1] == 0) --count;
  return count;
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
      const std::uint32_t lanes = lanes_between(begin - unit * kUnit, end - unit * kUnit);
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
      bytes |= lanes_between(c.near_begin[p] - unit * kUnit, c.near_end[p] - unit * kUnit) << (8 * p);
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

// Sinks, then the chosen blocks, then padding.
static void write_lists(Cell& c, std::int32_t* lists) {
  const PlanShape& shape = c.job.shape;
  for (unsigned p = 0; p < static_cast<unsigned>(c.positions); ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    std::int32_t* list = lists + static_cast<Index>(p) * shape.slots();
    Index used = 0;
    for (Index b = 0; b < shape.sinks && b < shape.blocks(); ++b) {
      if (c.left[p].contains(b) || c.right[p].contains(b)) list[used++] = static_cast<std::int32_t>(b);
    }
    for (Index i = 0; i < c.count; ++i) {
      if ((c.s.chosen[i] >> p & 1U) != 0) list[used++] = c.s.ids[i];
    }
    while (used < shape.slots()) list[used++] = -1;
  }
}

// The whole search for the active positions, which share the level where it starts.
static void search_from(Cell& c, Index level, std::int32_t* lists) {
  const SearchBudgets& b = c.job.search;
  bool whole_level = true;
  open_level(c, level);
  for (; level > 0; --level) {
    if (most_allowed(c) <= b.beam) {
      choose_all(c);
    } else {
      score_items(c, level, whole_level);
      choose(c, b.beam, static_cast<std::size_t>(level) + 2, false);
    }
    open_children(c, level - 1);
    whole_level = false;
  }
  for (Index i = 0; i < c.count; ++i) {
    if (c.s.ids[i] < b.sinks) c.s.may[i] = 0;  // attended anyway
  }
  const Index wanted = b.rescore ? b.candidates : b.kept;
  if (most_allowed(c) <= wanted) {
    choose_all(c);
  } else {
    score_items(c, 0, whole_level);
    choose(c, wanted, 0, false);
  }
  if (b.rescore) {
    narrow_to_chosen(c);
    if (most_allowed(c) <= b.kept) {
      choose_all(c);
    } else {
      rescore(c);
      choose(c, b.kept, 1, true);
    }
  }
  write_lists(c, lists);
}

static void search_cell(Cell& c, Index first, std::int32_t* lists) {
  const PlanShape& shape = c.job.shape;
  const Index slots = shape.slots();
  Index level[kQuad];
  unsigned waiting = 0;
  for (int p = 0; p < c.positions; ++p) {
    const Index position = shape.position(first + p);
    c.left[p] = shape.left(position);
    c.right[p] = shape.right(position);
    const Range near = shape.near(position);
    c.near_begin[p] = near.begin;
    c.near_end[p] = near.end;
    level[p] = 0;
    if (c.left[p].size() + c.right[p].size() > 0) {
      waiting |= 1U << p;
      level[p] = start_level(c, p);
    } else {
      for (Index i = 0; i < slots; ++i) lists[p * slots + i] = -1;
    }
  }
  while (waiting != 0) {
    const Index now = level[__builtin_ctz(waiting)];
    c.active = 0;
    for (int p = 0; p < c.positions; ++p) {
      if ((waiting >> p & 1U) != 0 && level[p] == now) c.active |= 1U << p;
    }
    waiting &= ~c.active;
    search_from(c, now, lists);
  }
}

static void select_tile(const HeadJob& job, Index first, Index count, std::int32_t* lists, Scratch& s) {
  for (Index p = 0; p < count; p += kQuad) {
    Cell cell{job, s, s.q.get() + p * job.group * job.packed->padded_dim, min_of<Index>(kQuad, count - p)};
    search_cell(cell, first + p, lists + p * job.shape.slots());
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
