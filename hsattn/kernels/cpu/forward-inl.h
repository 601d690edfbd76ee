// Forward: each quad of a tile walks its entries with a running softmax; quads that wait for low units go first, so
// that they find each other's keys in the cache.
#pragma once

#include "hsattn/kernels/cpu/gathered-inl.h"
#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/micro-inl.h"
#include "hsattn/kernels/cpu/select-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

constexpr Index kNoUnit = Index{1} << 60;  // comes after all others

// Where the walk of a quad stands.
struct Cursor {
  const Entry* at = nullptr;
  const Entry* end = nullptr;
};

// Takes the next (up to) 8 entries of a quad into a panel; a short panel is filled up with its first unit, unseen.
template <class Words>
HSATTN_INLINE void take_panel(const PackedHead& head, Cursor& cursor, Index* units, Panel& panel) {
  const int count = static_cast<int>(min_of<Index>(cursor.end - cursor.at, kPanelUnits));
  std::uint32_t every = 0xffffffffU;
  for (int u = 0; u < count; ++u) {
    units[u] = cursor.at[u].unit;
    every &= cursor.at[u].lanes;
  }
  for (int u = count; u < kPanelUnits; ++u) units[u] = units[0];
  for (int u = 0; u < kPanelUnits; ++u) panel.keys_t[u] = head.keys_t[units[u]];
  panel.units = count;
  panel.all_seen = every == 0xffffffffU && count == kPanelUnits;
  for (int r = 0; r < kQuad; ++r) panel.seen[r] = panel.all_seen ? ~std::uint64_t{0} : 0;
  if (!panel.all_seen) {
    for (int u = 0; u < count; ++u) {
      const std::uint32_t lanes = cursor.at[u].lanes;
      for (int r = 0; r < kQuad; ++r) panel.seen[r] |= static_cast<std::uint64_t>(lanes >> (8 * r) & 0xffU) << (8 * u);
    }
  }
  panel.careful = false;
  if (head.any_not_finite) {
    for (int u = 0; u < kPanelUnits; ++u) panel.careful |= *head.not_finite[units[u]] != 0;
  }
  cursor.at += count;
}

HSATTN_INLINE Index next_unit(const Cursor& c) { return c.at < c.end ? c.at->unit : kNoUnit; }

// The lowest next unit of all quads; kNoUnit when all have arrived.
HSATTN_INLINE Index lowest_unit(const Cursor* cursors, Index quads) {
  Index lowest = kNoUnit;
  for (Index i = 0; i < quads; ++i) lowest = min_of(lowest, next_unit(cursors[i]));
  return lowest;
}

// What scores of the quad at `row` are made of.
template <class Words>
HSATTN_INLINE QuadRows<Words> quad_rows(const float* rows, const float* pairs, Index row, Index padded, float factor) {
  constexpr int kPer = Words::kPerWord;
  const Index stride = padded / kPer;
  return {(kPer == 1 ? rows : pairs) + row * stride, stride, factor};
}

// What a quad does next: its panel, and the scores and weights of its rows.
struct PanelStep {
  Index row;  // of the quad in the tile
  Panel panel;
  alignas(64) float scores[kQuad * kPanel];
  float rescale[kQuad];
};

// The next panels of N quads. Step by step together, so that what one quad waits for in its softmax is hidden behind
// the other (full attention, float32, on an Intel Xeon: 8 % less time with two than with one, no less with four).
template <class Words, int N>
HSATTN_INLINE void forward_panels(const PackedHead& head, float scale, Cursor* cursors, const Index* quads, Index base,
                                  Scratch& s) {
  const Index padded = head.padded_dim;
  PanelStep steps[N];
  for (int i = 0; i < N; ++i) {
    PanelStep& step = steps[i];
    Index units[kPanelUnits];
    step.row = (base + quads[i]) * kQuad;
    take_panel<Words>(head, cursors[quads[i]], units, step.panel);
    for (int u = 0; u < kPanelUnits; ++u) step.panel.rows[u] = head.values[units[u]];
  }
  for (PanelStep& step : steps) {
    const QuadRows<Words> q = quad_rows<Words>(s.q, s.q_pairs, step.row, padded, scale);
    scores_of_panel(q, head.depth, KeysOfUnits{step.panel.keys_t}, step.panel.units, step.scores);
  }
  for (PanelStep& step : steps) {
    if (step.panel.all_seen) {  // written out for all vectors: the usual case
      softmax_step<Words, false>(step.scores, kVectors, kPanel, step.row, s, step.rescale);
    } else {
      const int vectors = vectors_of(step.panel.units);
      mask_scores(step.scores, step.panel.seen, vectors);
      softmax_step<Words, false>(step.scores, vectors, kPanel, step.row, s, step.rescale);
    }
    round_weights<Words>(step.scores, step.scores);
  }
  for (const PanelStep& step : steps) {
    const UnitRows rows{step.panel.rows, padded};
    float* o = s.o + step.row * padded;
    if (step.panel.careful) {
      weighted_rows_seen<Words>(step.scores, step.rescale, step.panel.seen, rows, padded, o);
    } else {
      weighted_rows_of_panel<Words>(step.scores, step.rescale, rows, step.panel, padded, o);
    }
  }
}

// 64 far nodes as a panel: rows of keys and values, biases, who sees what.
struct FarPanel {
  const float* keys[kPanel];
  const float* values[kPanel];
  Index row[kPanel];
  float bias[kPanel];
  std::uint64_t seen[kQuad];
  int count;

  __attribute__((always_inline)) int units() const { return (count + static_cast<int>(kUnit) - 1) / kUnit; }
};

HSATTN_INLINE void take_far_panel(const PackedHead& head, const FarEntry* entries, Index left, FarPanel& panel) {
  panel.count = static_cast<int>(min_of<Index>(left, kPanel));
  const PackedPyramid& p = head.pyramid;
  int level = 0;  // rows ascend
  std::uint64_t seen[kQuad] = {};
  for (int j = 0; j < panel.count; ++j) {
    const FarEntry entry = entries[j];
    panel.row[j] = entry.row;
    panel.bias[j] = entry.bias;
    while (entry.row >= p.first[level + 1]) ++level;
    const Index node = entry.row - p.first[level];
    panel.keys[j] = p.level[level].keys[node];
    panel.values[j] = p.level[level].values[node];
    for (int r = 0; r < kQuad; ++r) seen[r] |= static_cast<std::uint64_t>(entry.rows >> (8 * r) & 1U) << j;
  }
  for (int r = 0; r < kQuad; ++r) panel.seen[r] = seen[r];
  for (int j = panel.count; j < panel.units() * kUnit; ++j) {
    panel.keys[j] = panel.keys[0];
    panel.values[j] = panel.values[0];
  }
}

// [4, 64] scores of nodes, with their biases; kMasked where a row does not see one.
HSATTN_INLINE void far_scores(const PackedHead& head, const FarPanel& panel, const float* q, float* scores) {
  for (int j = 0; j < panel.count; j += 4) dots_of_rows(q, head.padded_dim, panel.keys + j, scores + j, kPanel);
  for (int r = 0; r < kQuad; ++r) {
    for (int c = 0; c < kVectors; ++c) {
      float* x = scores + r * kPanel + c * kLanes;
      store(x, add(load(x), load(panel.bias + c * kLanes)));
    }
  }
  mask_scores(scores, panel.seen, kVectors);
}

HSATTN_INLINE std::span<const FarEntry> far_of(const Scratch& s, Index quad) {
  return {s.far_entries[quad].data(), static_cast<std::size_t>(s.far_counts[quad])};
}

static void forward_far(const PackedHead& head, std::span<const FarEntry> entries, Index row, Scratch& s) {
  const auto count = static_cast<Index>(entries.size());
  float* o = s.o + row * head.padded_dim;
  for (Index at = 0; at < count; at += kPanel) {
    FarPanel panel;
    alignas(64) float scores[kQuad * kPanel];
    float rescale[kQuad];
    take_far_panel(head, entries.data() + at, count - at, panel);
    far_scores(head, panel, s.q + row * head.padded_dim, scores);
    softmax_step<Floats, true>(scores, kVectors, panel.count, row, s, rescale);
    const NodeRows rows{panel.values};
    if (head.any_not_finite) {
      weighted_rows_seen<Floats>(scores, rescale, panel.seen, rows, head.padded_dim, o);
    } else {
      weighted_rows<Floats>(scores, rescale, rows, FirstUnits{panel.units()}, head.padded_dim, o);
    }
  }
}

// log of the softmax denominator, from the weight that the largest score has in it: exact also where m ln 2 would not
// be.
HSATTN_INLINE float log_sum(float best, float sum) {
  float lanes[kLanes];
  store(lanes, exp_minus<true>(set1(best), set1(exponent_above(best))));
  return best + __builtin_logf(sum / lanes[0]);
}

// Divides by the softmax denominator and writes o and lse.
template <class Words>
static void write_tile(const HeadJob& job, Index first, Index count, const ForwardOutputs& out, Scratch& s) {
  const Index padded = job.packed->padded_dim;
  for (Index row = 0; row < count * job.group; ++row) {
    const Index query = first + row / job.group, head = row % job.group;
    const float sum = s.far_sum[row] + sum_of_half(half_load(s.sums + row * kUnit));
    const bool sees_nothing = sum == 0.0F;
    float divisor = sees_nothing ? 1.0F : sum;
    if (Words::kPerWord == 2 && !sees_nothing) {
      divisor = s.far_sum[row] + sum_of_half(half_load(s.rounded_sums + row * kUnit));
    }
    float* o = s.o + row * padded;
    for (Index d = 0; d < job.packed->dim; ++d) o[d] /= divisor;
    write_row(out.o.dtype, o, out.o.dim, out.o.row(query, head));
    if (out.lse != nullptr) {
      out.lse[head * job.shape.queries + query] = sees_nothing ? -__builtin_inff() : log_sum(s.max[row], sum);
    }
  }
}

static void reset_rows(Index rows, Index padded, Scratch& s) {
  for (Index r = 0; r < rows; ++r) {
    s.max[r] = -__builtin_inff();
    s.far_sum[r] = 0;
  }
  for (float* sums : {s.sums, s.rounded_sums}) {
    if (sums != nullptr) __builtin_memset(sums, 0, static_cast<std::size_t>(rows * kUnit) * sizeof(float));
  }
  __builtin_memset(s.o, 0, static_cast<std::size_t>(rows * padded) * sizeof(float));
}

// The lists of a tile: those of the plan, or ones that follow from the positions or are chosen now from the queries in
// s.q.
static const std::int32_t* tile_lists(const HeadJob& job, Index first, Index count, Scratch& s) {
  const Index slots = job.shape.slots();
  if (slots == 0) return nullptr;
  if (job.lists != nullptr) return job.lists + first * slots;
  std::int32_t* lists = job.keep != nullptr ? job.keep + first * slots : s.lists;
  if (job.rule != nullptr) {
    job.rule->write(job.kv_head, first, count, lists);
  } else {
    select_tile(job, first, count, lists, s);
  }
  return lists;
}

// Walks the lists of `some` quads from quad `base` on, two at a time, in rounds: in each of them quads whose next unit
// is close to the lowest take a panel.
template <class Words>
static void walk_side_by_side(const PackedHead& head, float scale, Cursor* cursors, Index some, Index base,
                              Scratch& s) {
  Index pair[2];
  int waiting = 0;
  for (Index lowest; (lowest = lowest_unit(cursors, some)) != kNoUnit;) {
    for (Index i = 0; i < some; ++i) {
      if (next_unit(cursors[i]) >= lowest + kPanelUnits) continue;
      pair[waiting++] = i;
      if (waiting < 2) continue;
      forward_panels<Words, 2>(head, scale, cursors, pair, base, s);
      waiting = 0;
    }
    if (waiting == 1) forward_panels<Words, 1>(head, scale, cursors, pair, base, s);
    waiting = 0;
  }
}

template <class Words>
static void forward_tile(const HeadJob& job, Index first, Index count, const ForwardOutputs& out, Scratch& s) {
  const PackedHead& head = *job.packed;
  const Index quads = (count * job.group + kQuad - 1) / kQuad;
  load_tile_rows(job.q, job.group, first, count, job.scale, head.padded_dim, s.q);
  if constexpr (Words::kPerWord == 2) {
    load_tile_pairs(job.q, job.group, first, count, head.padded_dim, s.q_pairs, nullptr);
  }
  const bool gathers = Words::kPerWord == 1 && job.shape.block < kUnit;
  build_tile_entries(job, first, count, tile_lists(job, first, count, s), gathers, s);
  reset_rows(quads * kQuad, head.padded_dim, s);
  if (job.shape.tail > 0) begin_with_tail(quads * kQuad, head.padded_dim, s);
  if (job.shape.far_field) {
    for (Index quad = 0; quad < quads; ++quad) forward_far(head, far_of(s, quad), quad * kQuad, s);
  }
  if constexpr (Words::kPerWord == 1) {
    if (gathers) forward_gathered_quads(job, quads, s);
  }
  Cursor cursors[kSideBySide];
  for (Index base = 0; base < quads; base += kSideBySide) {
    const Index some = min_of<Index>(quads - base, kSideBySide);
    for (Index i = 0; i < some; ++i) {
      cursors[i] = {s.entries[base + i].data(), s.entries[base + i].data() + s.entries[base + i].size()};
    }
    walk_side_by_side<Words>(head, job.scale, cursors, some, base, s);
  }
  write_tile<Words>(job, first, count, out, s);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
