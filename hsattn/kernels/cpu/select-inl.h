// The search: descend the pyramid, rescore, keep; every position for itself (docs/design.md, "Selection").
//
// A cell of up to 4 positions (times the group's heads: whole quads of rows) is scored together over the union of what
// its positions may choose; byte masks say which position may choose what. Sums over a position's own items are either
// exact (integers) or over one unit in a fixed order, so no list depends on which positions share a cell.
#pragma once

#include "hsattn/kernels/cpu/descend-inl.h"
#include "hsattn/kernels/cpu/rescore-inl.h"
#include "hsattn/kernels/cpu/tail-inl.h"
#include "hsattn/kernels/cpu/top_k-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// How many of the heaviest items position p keeps under a mass budget: the fewest, from `least` to `kept`, whose rivals
// hold no more than what may be missed. `mass` is summed over the heads.
static Index count_for_mass(const Cell& c, unsigned p, const float* mass) {
  constexpr float kWhole = 1073741824.0F;  // 2^30: shares are added up as integers
  const SearchBudgets& b = c.job.search;
  float* x = c.s.spare;
  Index n = 0;
  for (Index i = 0; i < c.count; i += kLanes) {
    n += compress(reinterpret_cast<std::int32_t*>(x + n), reinterpret_cast<const std::int32_t*>(mass + i),
                  lanes_with_bit(c.s.may + i, p));
  }
  const float factor = kWhole / static_cast<float>(c.job.group);
  std::int64_t all = 0;
  for (Index i = 0; i < n; ++i) all += static_cast<std::int64_t>(x[i] * factor);
  const auto missed = static_cast<std::int64_t>((1 - b.mass) * kWhole);
  return max_of(b.least, min_of(b.kept, fewest_to_reach(x, n, factor, all - missed)));
}

// Candidates, which are nodes, become their blocks, in the order of the masses that rescore() found.
static void open_blocks(Cell& c) {
  const Index per_node = c.job.shape.blocks_of_node(), old_count = items(c);
  Index count = 0;
  for (Index i = 0; i < old_count; ++i) {
    for (Index j = 0; j < per_node; ++j, ++count) {
      c.s.next_ids[count] = static_cast<std::int32_t>(c.s.ids[i] * per_node + j);
      c.s.next_may[count] = c.s.may[i];
    }
  }
  c.count = count;
  forbid_items(c.s.next_ids, c.s.next_may, c.count, 0, c.job.shape.blocks());
  pad_items(c, c.s.next_ids, c.s.next_may, kDimAlign);
  exchange(c.s.ids, c.s.next_ids);
  exchange(c.s.may, c.s.next_may);
}

// What a stage ranks by: scores of nodes, or masses that are there already; and whether it is the last, where a mass
// budget says how many are kept.
struct Stage {
  std::size_t hint;
  bool by_mass, last;
};

// The k best of a stage for each position: their bits go to c.s.chosen.
static void choose(Cell& c, Index k, Stage stage) {
  const bool by_mass = stage.last && c.job.search.mass > 0;
  __builtin_memset(c.s.chosen, 0, static_cast<std::size_t>(c.count));
  for (unsigned p = 0; p < static_cast<unsigned>(c.positions); ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    const float* rank = stage.by_mass ? c.s.mass + static_cast<Index>(p) * c.s.capacity : rank_of_nodes(c, p, by_mass);
    const Index count = by_mass ? count_for_mass(c, p, rank) : k;
    const Threshold t = find_threshold(rank, c.s.may, p, c.count, count, c.s.work, c.s.spare, &c.s.hints[stage.hint]);
    const auto flag = static_cast<std::uint8_t>(1U << p);
    std::uint8_t* chosen = c.s.chosen;
    for_each_chosen(c.s.work, c.count, t, [&](Index i, M lanes) { mark_lanes(chosen + i, lanes, flag); });
  }
}

// Sinks, then the chosen blocks, then padding.
static void write_lists(Cell& c, std::int32_t* lists) {
  const PlanShape& shape = c.job.shape;
  std::int32_t* blocks = c.s.next_ids;
  for (unsigned p = 0; p < static_cast<unsigned>(c.positions); ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    std::int32_t* list = lists + static_cast<Index>(p) * shape.slots();
    Index used = 0;
    for (Index b = 0; b < shape.sinks && b < shape.blocks(); ++b) {
      const Index node = b / shape.blocks_of_node();
      if (c.left[p].contains(node) || c.right[p].contains(node)) list[used++] = static_cast<std::int32_t>(b);
    }
    Index found = 0;
    for (Index i = 0; i < c.count; i += kLanes) {
      found += compress(blocks + found, c.s.ids + i, lanes_with_bit(c.s.chosen + i, p));
    }
    __builtin_memcpy(list + used, blocks, static_cast<std::size_t>(found) * sizeof *list);
    for (used += found; used < shape.slots(); ++used) list[used] = -1;
  }
}

// The whole search for the active positions, which share the level where it starts.
static void search_from(Cell& c, Index level, std::int32_t* lists) {
  const SearchBudgets& b = c.job.search;
  open_level(c, level);
  for (; level > 0; --level) {
    if (most_allowed(c) <= b.beam) {
      choose_all(c);
    } else {
      score_items(c, level);
      choose(c, b.beam, {static_cast<std::size_t>(level) + 2, false, false});
    }
    open_children(c, level - 1);
  }
  forbid_items(c.s.ids, c.s.may, c.count, b.sinks, c.job.shape.nodes());  // sinks are attended anyway
  const Index wanted = b.rescore ? b.candidates : b.kept;
  if (most_allowed(c) <= (b.rescore ? wanted : b.least)) {
    choose_all(c);
  } else if (c.job.shape.parts > 1) {
    score_parts(c);
    choose(c, wanted, {0, true, !b.rescore});
  } else {
    score_items(c, 0);
    choose(c, wanted, {0, false, !b.rescore});
  }
  if (b.rescore) {
    narrow_to_chosen(c);
    const Index per_node = c.job.shape.blocks_of_node(), candidates = items(c);
    const bool all = most_allowed(c) * per_node <= b.least;
    if (!all) rescore(c);
    if (per_node > 1) open_blocks(c);
    if (all) {
      choose_all(c);
    } else {
      choose(c, b.kept, {1, true, true});
      if (c.job.shape.tail > 0) {
        add_tail(c, per_node > 1 ? Candidates{c.s.next_ids, c.s.next_may, candidates}
                                 : Candidates{c.s.ids, c.s.may, candidates});
      }
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
    c.left[p] = shape.left_nodes(position);
    c.right[p] = shape.right_nodes(position);
    c.near[p] = shape.near(position);
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
  round_queries(s.q, count * job.group, job.packed->padded_dim, s);
  if (job.shape.tail > 0) reset_tail(job, count, s);
  for (Index p = 0; p < count; p += kQuad) {
    Cell cell{job, s, s.q + p * job.group * job.packed->padded_dim, min_of<Index>(kQuad, count - p)};
    search_cell(cell, first + p, lists + p * job.shape.slots());
  }
}

static void select_queries(const HeadJob& job, Index first, Index count, std::int32_t* lists, Scratch& s) {
  load_tile_rows(job.q, job.group, first, count, job.scale, job.packed->padded_dim, s.q);
  select_tile(job, first, count, lists, s);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
