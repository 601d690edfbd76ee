// Backward: the same walk as forward; weights are recomputed from lse. Per panel of a quad: weights p and their
// gradients ds = p (dp - delta), then dq += ds k. Keys are served after that, unit by unit: dk += ds q and dv += p dout
// of all quads that saw the unit, in the order of their rows. So a key's gradient does not depend on what else is in a
// panel, and its sums are fetched once for a tile and not once for a quad.
#pragma once

#include "hsattn/kernels/cpu/forward-inl.h"
#include "hsattn/kernels/cpu/owed-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

struct BackwardRows {
  const float* q;  // [4, padded dim] each; q times scale
  const float* dout;
  float* dq;
  const float* lse;         // [4]
  const float* delta;       // [4]
  const float* q_words;     // [4 / words' rows, padded dim]: the same as they are served to keys; for Pairs, q is not
  const float* dout_words;  // times scale
};

// scores -> weights p, dp -> ds, in place; 0 where a row does not see a key.
HSATTN_INLINE void weight_gradients(float* scores, float* dp, const BackwardRows& rows, const std::uint64_t* seen) {
  for (int r = 0; r < kQuad; ++r) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(seen + r);
    const F lse = set1(rows.lse[r]), delta = set1(rows.delta[r]);
    for (int c = 0; c < kVectors; ++c) {
      const Index at = r * kPanel + c * kLanes;
      const M m = lanes_of(bytes + c * kUnitsPerVector);
      const F x = min_keep_nan(zero(), max_keep_nan(set1(-200.0F), sub(load(scores + at), lse)));  // p is at most 1
      const F p = select(m, exp_minus<false>(x, zero()), zero());
      store(scores + at, p);
      store(dp + at, select(m, mul(p, sub(load(dp + at), delta)), zero()));
    }
  }
}

// The last panel of a quad: its weights wait here until their keys are served.
struct WaitingPanel {
  alignas(64) float p[kQuad * kPanel];
  alignas(64) float ds[kQuad * kPanel];
  Index units[kPanelUnits + 1];  // ascending; a unit that never comes ends them
  std::uint64_t seen[kQuad];
  BackwardRows rows;
  int at;             // next unit to serve
  bool careful_rows;  // the quad has a query or gradient that is not finite
  bool careful;

  __attribute__((always_inline)) Index next_unit() const { return units[at]; }
};

// Words of a quad's rows for its scores, and of the gradients of its outputs for the gradients of its weights.
template <class Words>
struct ScoredRows {
  QuadRows<Words> q, dout;
};

template <class Words>
HSATTN_INLINE void backward_panel(const PackedHead& head, const ScoredRows<Words>& scored, Cursor& cursor,
                                  WaitingPanel& w) {
  const Index padded = head.padded_dim;
  Panel panel;
  w.at = 0;
  take_panel<Words>(head, cursor, w.units, panel);
  const float* values_t[kPanelUnits];
  for (int u = 0; u < kPanelUnits; ++u) {
    values_t[u] = head.values_t[w.units[u]];
    panel.rows[u] = head.key_rows[w.units[u]];
  }
  for (int r = 0; r < kQuad; ++r) w.seen[r] = panel.seen[r];
  w.careful = panel.careful || w.careful_rows;
  const int units = kLanes == 16 ? static_cast<int>(kPanelUnits) : panel.units;  // one more branch costs it 5 %
  scores_of_panel(scored.q, head.depth, KeysOfUnits{panel.keys_t}, units, w.p);
  scores_of_panel(scored.dout, head.depth, KeysOfUnits{values_t}, units, w.ds);
  weight_gradients(w.p, w.ds, w.rows, panel.seen);
  w.units[panel.units] = kNoUnit;
  const float ones[kQuad] = {1, 1, 1, 1};
  const UnitRows keys{panel.rows, padded};
  alignas(64) float rounded[Words::kPerWord == 1 ? 1 : kQuad * kPanel];
  const float* ds = Words::kPerWord == 1 ? w.ds : rounded;
  round_weights<Words>(w.ds, rounded);
  if (w.careful) {
    weighted_rows_seen<Words>(ds, ones, panel.seen, keys, padded, w.rows.dq);
  } else {
    weighted_rows_of_panel<Words>(ds, ones, keys, panel, padded, w.rows.dq);
  }
  pair_up_weights<Words>(w.ds);
  pair_up_weights<Words>(w.p);
}

// Adds what the next unit of one waiting panel owes to its keys, where something is not finite.
template <class Words>
HSATTN_INLINE void serve_seen(const BackwardJob& out, Index padded, const WaitingPanel& w) {
  const Index first = w.units[w.at] * kUnit * padded;
  std::uint64_t seen[kQuad];
  for (int r = 0; r < kQuad; ++r) seen[r] = w.seen[r] >> (8 * w.at) & 0xffU;
  add_outer_seen<Words>(w.ds + w.at * kUnit, w.rows.q_words, padded, seen,
                        [&](int j) { return out.dk + first + j * padded; });
  add_outer_seen<Words>(w.p + w.at * kUnit, w.rows.dout_words, padded, seen,
                        [&](int j) { return out.dv + first + j * padded; });
}

// What the quads collected so far owe to a unit.
template <class Words>
struct OwedToUnit {
  Owed keys, values;

  __attribute__((always_inline)) void collect(const WaitingPanel& w) {
    const int i = keys.quads++;
    values.quads = keys.quads;
    keys.w[i] = w.ds + w.at * kUnit;
    keys.x[i] = w.rows.q_words;
    values.w[i] = w.p + w.at * kUnit;
    values.x[i] = w.rows.dout_words;
  }

  __attribute__((always_inline)) void serve(const BackwardJob& out, Index padded, Index unit) {
    if (keys.quads == 0) return;
    float* const dk = out.dk + unit * kUnit * padded;
    float* const dv = out.dv + unit * kUnit * padded;
    add_outer<Words>(keys, padded, kUnit, [=](int j) { return dk + j * padded; });
    add_outer<Words>(values, padded, kUnit, [=](int j) { return dv + j * padded; });
    keys.quads = values.quads = 0;
  }
};

// Serves all waiting units below `limit`, by unit, then by quad.
template <class Words>
HSATTN_INLINE void serve_units_below(const BackwardJob& out, Index padded, WaitingPanel* waiting, Index quads,
                                     Index limit) {
  OwedToUnit<Words> owed;
  while (true) {
    Index unit = limit;
    for (Index i = 0; i < quads; ++i) unit = min_of(unit, waiting[i].next_unit());
    if (unit >= limit) return;
    for (Index i = 0; i < quads; ++i) {
      WaitingPanel& w = waiting[i];
      if (w.next_unit() != unit) continue;
      if (w.careful) {
        owed.serve(out, padded, unit);
        serve_seen<Words>(out, padded, w);
      } else {
        owed.collect(w);
      }
      ++w.at;
    }
    owed.serve(out, padded, unit);
  }
}

static void backward_far(const PackedHead& head, const BackwardJob& out, std::span<const FarEntry> entries,
                         const BackwardRows& rows, bool careful_rows) {
  const auto count = static_cast<Index>(entries.size());
  const Index padded = head.padded_dim;
  for (Index at = 0; at < count; at += kPanel) {
    FarPanel panel;
    alignas(64) float scores[kQuad * kPanel];
    alignas(64) float dp[kQuad * kPanel];
    take_far_panel(head, entries.data() + at, count - at, panel);
    far_scores(head, panel, rows.q, scores);
    for (int j = 0; j < panel.count; j += 4) dots_of_rows(rows.dout, padded, panel.values + j, dp + j, kPanel);
    weight_gradients(scores, dp, rows, panel.seen);
    const auto dk = [&](int j) { return out.dk_nodes + panel.row[j] * padded; };
    const auto dv = [&](int j) { return out.dv_nodes + panel.row[j] * padded; };
    const float ones[kQuad] = {1, 1, 1, 1};
    const NodeRows keys{panel.keys};
    if (head.any_not_finite || careful_rows) {
      weighted_rows_seen<Floats>(dp, ones, panel.seen, keys, padded, rows.dq);
      add_outer_seen<Floats>(dp, rows.q, padded, panel.seen, dk);
      add_outer_seen<Floats>(scores, rows.dout, padded, panel.seen, dv);
    } else {
      weighted_rows<Floats>(dp, ones, keys, FirstUnits{panel.units()}, padded, rows.dq);
      add_outer<Floats>(Owed{{dp}, {rows.q}, 1}, padded, panel.count, dk);
      add_outer<Floats>(Owed{{scores}, {rows.dout}, 1}, padded, panel.count, dv);
    }
  }
}

// Rows that see nothing get lse 0: all their weights are masked.
static void load_lse(const HeadJob& job, const BackwardJob& out, Index first, Index count, Scratch& s) {
  for (Index row = 0; row < (count * job.group + kQuad - 1) / kQuad * kQuad; ++row) {
    const bool real = row < count * job.group;
    const Index query = first + row / job.group, head = row % job.group;
    const float lse = real ? out.lse[head * job.shape.queries + query] : 0.0F;
    s.lse[row] = lse == -__builtin_inff() ? 0.0F : lse;
  }
}

// delta = dout . o, in the chains in which dout . v is summed, so that a row whose one key takes all has a gradient of
// exactly 0 if o is v.
template <class Words>
static void load_deltas(const HeadJob& job, Index count, Scratch& s) {
  const Index padded = job.packed->padded_dim;
  for (Index row = 0; row < (count * job.group + kQuad - 1) / kQuad * kQuad; row += kQuad) {
    float sum[kQuad][kStep] = {};
    for (Index i = 0; i < job.packed->depth * Words::kPerWord; ++i) {
      const Index d = Words::kPerWord == 1 ? i : i ^ 1;  // of a pair the upper product comes first
      for (int r = 0; r < kQuad; ++r) {
        const Index at = (row + r) * padded + d;
        float& chain = sum[r][i / Words::kPerWord % kStep];
        chain = fused_multiply_add(s.dout[at], s.o[at], chain);
      }
    }
    for (int r = 0; r < kQuad; ++r) s.delta[row + r] = kStep == 1 ? sum[r][0] : sum[r][0] + sum[r][kStep - 1];
  }
}

// True if a row of the quad has a query or gradient that is not finite.
static bool rows_not_finite(const float* a, const float* b, Index count) {
  bool all = true;
  for (Index i = 0; i < count; i += kLanes) {
    constexpr unsigned kEvery = kLanes == 16 ? 0xffffU : 0xffU;
    all &= (bits(finite(load(a + i))) & bits(finite(load(b + i)))) == kEvery;
  }
  return !all;
}

static void write_dq(const HeadJob& job, const BackwardJob& out, Index first, Index count, Scratch& s) {
  const Index padded = job.packed->padded_dim;
  for (Index row = 0; row < count * job.group; ++row) {
    float* dq = s.dq + row * padded;
    for (Index d = 0; d < job.packed->dim; ++d) dq[d] *= job.scale;
    write_row(out.dq.dtype, dq, out.dq.dim, out.dq.row(first + row / job.group, row % job.group));
  }
}

template <class Words>
static void load_backward_rows(const HeadJob& job, const BackwardJob& out, Index first, Index count, Scratch& s) {
  const Index padded = job.packed->padded_dim;
  load_tile_rows(job.q, job.group, first, count, job.scale, padded, s.q);
  load_tile_rows(out.o, job.group, first, count, 1, padded, s.o);
  load_tile_rows(out.dout, job.group, first, count, 1, padded, s.dout);
  if constexpr (Words::kPerWord == 2) {
    load_tile_pairs(job.q, job.group, first, count, padded, s.q_pairs, s.q_row_pairs);
    load_tile_pairs(out.dout, job.group, first, count, padded, s.dout_pairs, s.dout_row_pairs);
  }
}

template <class Words>
static void backward_tile(const HeadJob& job, const BackwardJob& out, Index first, Index count, Scratch& s) {
  const PackedHead& head = *job.packed;
  const Index padded = head.padded_dim;
  const Index quads = (count * job.group + kQuad - 1) / kQuad;
  load_backward_rows<Words>(job, out, first, count, s);
  load_lse(job, out, first, count, s);
  load_deltas<Words>(job, count, s);
  build_tile_entries(job, first, count, tile_lists(job, first, count, s), false, s);
  __builtin_memset(s.dq, 0, static_cast<std::size_t>(quads * kQuad * padded) * sizeof(float));

  const auto rows_of_quad = [&](Index quad) {
    const Index row = quad * kQuad, at = row * padded;
    constexpr bool kPairs = Words::kPerWord == 2;
    return BackwardRows{s.q + at,
                        s.dout + at,
                        s.dq + at,
                        s.lse + row,
                        s.delta + row,
                        kPairs ? s.q_row_pairs + at / 2 : s.q + at,
                        kPairs ? s.dout_row_pairs + at / 2 : s.dout + at};
  };
  Cursor cursors[kSideBySide];
  WaitingPanel waiting[kSideBySide];
  for (Index base = 0; base < quads; base += kSideBySide) {
    const Index some = min_of<Index>(quads - base, kSideBySide);
    for (Index i = 0; i < some; ++i) {
      WaitingPanel& w = waiting[i];
      w.rows = rows_of_quad(base + i);
      w.at = 0;
      w.units[0] = kNoUnit;
      w.careful_rows = rows_not_finite(w.rows.q, w.rows.dout, kQuad * padded);
      cursors[i] = {s.entries[base + i].data(), s.entries[base + i].data() + s.entries[base + i].size()};
      if (job.shape.far_field) backward_far(head, out, far_of(s, base + i), w.rows, w.careful_rows);
    }
    for (Index lowest; (lowest = lowest_unit(cursors, some)) != kNoUnit;) {
      serve_units_below<Words>(out, padded, waiting, some, lowest);
      for (Index i = 0; i < some; ++i) {
        if (next_unit(cursors[i]) != lowest) continue;
        const Index row = (base + i) * kQuad;
        const ScoredRows<Words> scored{quad_rows<Words>(s.q, s.q_pairs, row, padded, job.scale),
                                       quad_rows<Words>(s.dout, s.dout_pairs, row, padded, 1)};
        backward_panel(head, scored, cursors[i], waiting[i]);
      }
    }
    serve_units_below<Words>(out, padded, waiting, some, head.units);
  }
  write_dq(job, out, first, count, s);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
