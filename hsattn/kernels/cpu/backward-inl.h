// Backward: the same walk as forward; weights are recomputed from lse. Per panel: weights p and their gradients
// ds = p (dp - delta), then dq += ds k, dk += ds q, dv += p dout. Rows of a quad are added to a key in their order, so
// that a key's gradient does not depend on what else is in the panel.
#pragma once

#include "hsattn/kernels/cpu/forward-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

struct BackwardRows {
  const float* q;      // [4, padded dim] each; q times scale log2(e)
  const float* dout;
  float* dq;
  const float* lse;    // [4], log2 domain
  const float* delta;  // [4]
};

// scores -> weights p, dp -> ds, in place; 0 where a row does not see a key.
HSATTN_INLINE void weight_gradients(float* scores, float* dp, const BackwardRows& rows, const std::uint64_t* seen) {
  for (int r = 0; r < kQuad; ++r) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(seen + r);
    const F lse = set1(rows.lse[r]), delta = set1(rows.delta[r]);
    for (int c = 0; c < kVectors; ++c) {
      const Index at = r * kPanel + c * kLanes;
      const M m = lanes_of(bytes + c * kUnitsPerVector);
      F integer;
      const F fraction = exp2_fraction(max_keep_nan(set1(kMasked), sub(load(scores + at), lse)), &integer);
      const F p = select(m, scale_by_power(fraction, integer), zero());
      store(scores + at, p);
      store(dp + at, select(m, mul(p, sub(load(dp + at), delta)), zero()));
    }
  }
}

// row(j) += sum_r w[r][j] x[r], for the first `lanes` keys of a panel. N vectors of columns.
template <int N, class RowOf>
HSATTN_INLINE void add_outer_of_vectors(const float* w, const float* x, Index padded, Index column, int lanes,
                                        RowOf row_of) {
  F rows[kQuad][N];
  for (int r = 0; r < kQuad; ++r)
    for (int c = 0; c < N; ++c) rows[r][c] = load(x + r * padded + column + c * kLanes);
  for (int j = 0; j < lanes; ++j) {
    float* to = row_of(j) + column;
    F acc[N];
    for (int c = 0; c < N; ++c) acc[c] = load(to + c * kLanes);
    for (int r = 0; r < kQuad; ++r) {
      const F weight = set1(w[r * kPanel + j]);
      for (int c = 0; c < N; ++c) acc[c] = fma(weight, rows[r][c], acc[c]);
    }
    for (int c = 0; c < N; ++c) store(to + c * kLanes, acc[c]);
  }
}

template <class RowOf>
HSATTN_INLINE void add_outer(const float* w, const float* x, Index padded, int lanes, RowOf row_of) {
  constexpr int kMost = kLanes == 16 ? 4 : 2;
  Index column = 0;
  for (; column + kMost * kLanes <= padded; column += kMost * kLanes)
    add_outer_of_vectors<kMost>(w, x, padded, column, lanes, row_of);
  for (; column < padded; column += kLanes) add_outer_of_vectors<1>(w, x, padded, column, lanes, row_of);
}

// The same sums, leaving out rows that do not see a key: for queries, keys or values that are not finite.
template <class RowOf>
HSATTN_INLINE void add_outer_seen(const float* w, const float* x, Index padded, const std::uint64_t* seen,
                                  RowOf row_of) {
  for (int r = 0; r < kQuad; ++r) {
    for (std::uint64_t left = seen[r]; left != 0; left &= left - 1) {
      const int j = __builtin_ctzll(left);
      float* to = row_of(j);
      const F weight = set1(w[r * kPanel + j]);
      for (Index c = 0; c < padded; c += kLanes) store(to + c, fma(weight, load(x + r * padded + c), load(to + c)));
    }
  }
}

template <class KeyRows, class RowOfKeys, class RowOfValues>
HSATTN_INLINE void add_gradients(const float* p, const float* ds, const BackwardRows& rows, Index padded,
                                 const std::uint64_t* seen, int lanes, bool careful, KeyRows keys, RowOfKeys dk,
                                 RowOfValues dv) {
  const float ones[kQuad] = {1, 1, 1, 1};
  if (careful) {
    weighted_rows_seen(ds, ones, seen, keys, padded, rows.dq);
    add_outer_seen(ds, rows.q, padded, seen, dk);
    add_outer_seen(p, rows.dout, padded, seen, dv);
  } else {
    weighted_rows(ds, ones, keys, padded, rows.dq);
    add_outer(ds, rows.q, padded, lanes, dk);
    add_outer(p, rows.dout, padded, lanes, dv);
  }
}

HSATTN_INLINE void backward_panel(const PackedHead& head, const BackwardJob& out, Cursor& cursor,
                                  const BackwardRows& rows, bool careful_rows) {
  const Index padded = head.padded_dim;
  Panel panel;
  Index units[kPanelUnits];
  alignas(64) float scores[kQuad * kPanel];
  alignas(64) float dp[kQuad * kPanel];
  const int lanes = static_cast<int>(min_of<Index>(cursor.end - cursor.at, kPanelUnits) * kUnit);
  take_panel(head, cursor, units, panel);
  const float* values_t[kPanelUnits];
  for (int u = 0; u < kPanelUnits; ++u) {
    values_t[u] = head.values_t.get() + units[u] * head.dim * kUnit;
    panel.rows[u] = head.key_rows.get() + units[u] * kUnit * padded;
  }
  scores_of_panel(rows.q, padded, head.dim, panel.keys_t, scores);
  scores_of_panel(rows.dout, padded, head.dim, values_t, dp);
  weight_gradients(scores, dp, rows, panel.seen);
  const auto dk = [&](int j) { return out.dk + (units[j / kUnit] * kUnit + j % kUnit) * padded; };
  const auto dv = [&](int j) { return out.dv + (units[j / kUnit] * kUnit + j % kUnit) * padded; };
  add_gradients(scores, dp, rows, padded, panel.seen, lanes, panel.careful || careful_rows,
                UnitRows{panel.rows, padded}, dk, dv);
}

static void backward_far(const PackedHead& head, const BackwardJob& out, const std::vector<FarEntry>& entries,
                         const BackwardRows& rows, bool careful_rows) {
  const auto count = static_cast<Index>(entries.size());
  const Index padded = head.padded_dim;
  for (Index at = 0; at < count; at += kPanel) {
    FarPanel panel;
    alignas(64) float scores[kQuad * kPanel];
    alignas(64) float dp[kQuad * kPanel];
    take_far_panel(head, entries.data() + at, count - at, panel);
    far_scores(head, panel, rows.q, scores);
    for (int j = 0; j < kPanel; j += 4) dots_of_rows(rows.dout, padded, panel.values + j, dp + j, kPanel);
    weight_gradients(scores, dp, rows, panel.seen);
    const auto dk = [&](int j) { return out.dk_nodes + panel.row[j] * padded; };
    const auto dv = [&](int j) { return out.dv_nodes + panel.row[j] * padded; };
    add_gradients(scores, dp, rows, padded, panel.seen, panel.count, head.any_not_finite || careful_rows,
                  NodeRows{panel.keys}, dk, dv);
  }
}

// delta = dout . o, lse in the log2 domain; rows that see nothing get lse 0: all their weights are masked.
static void load_row_statistics(const HeadJob& job, const BackwardJob& out, Index first, Index count, Scratch& s) {
  const Index padded = job.packed->padded_dim;
  for (Index row = 0; row < (count * job.group + kQuad - 1) / kQuad * kQuad; ++row) {
    const bool real = row < count * job.group;
    const Index query = first + row / job.group, head = row % job.group;
    const float lse = real ? out.lse[head * job.shape.queries + query] : 0.0F;
    s.lse[row] = lse == -__builtin_inff() ? 0.0F : lse * kLog2e;
    F sum = zero();
    for (Index d = 0; d < padded; d += kLanes) {
      sum = fma(load(s.dout.get() + row * padded + d), load(s.o.get() + row * padded + d), sum);
    }
    s.delta[row] = sum_of_half(add_units(half_zero(), sum));
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

static void write_dq(const HeadJob& job, const BackwardJob& out, Index first, Index count, const Scratch& s) {
  const Index padded = job.packed->padded_dim;
  for (Index row = 0; row < count * job.group; ++row) {
    float* to = out.dq + row % job.group * out.dq_head_stride + (first + row / job.group) * out.dq_stride;
    for (Index d = 0; d < job.packed->dim; ++d) to[d] = s.dq[row * padded + d] * job.scale + 0.0F;
  }
}

static void backward_tile(const HeadJob& job, const BackwardJob& out, Index first, Index count, Scratch& s) {
  const PackedHead& head = *job.packed;
  const Index padded = head.padded_dim;
  const Index quads = (count * job.group + kQuad - 1) / kQuad;
  load_tile_rows(job.q, job.q_head_stride, job.group, first, count, job.scale * kLog2e, padded, s.q.get());
  load_tile_rows(out.o, out.o_head_stride, job.group, first, count, 1, padded, s.o.get());
  load_tile_rows(out.dout, out.dout_head_stride, job.group, first, count, 1, padded, s.dout.get());
  load_row_statistics(job, out, first, count, s);
  build_tile_entries(job, first, count, tile_lists(kKernels, job, first, count, s), s);
  __builtin_memset(s.dq.get(), 0, static_cast<std::size_t>(quads * kQuad * padded) * sizeof(float));

  const auto rows_of_quad = [&](Index quad) {
    const Index row = quad * kQuad;
    return BackwardRows{s.q.get() + row * padded, s.dout.get() + row * padded, s.dq.get() + row * padded,
                        s.lse.get() + row, s.delta.get() + row};
  };
  constexpr Index kSideBySide = kTile * kMostQuadsPerPosition;
  Cursor cursors[kSideBySide];
  bool careful[kSideBySide];
  for (Index base = 0; base < quads; base += kSideBySide) {
    const Index some = min_of<Index>(quads - base, kSideBySide);
    for (Index i = 0; i < some; ++i) {
      const BackwardRows rows = rows_of_quad(base + i);
      cursors[i] = {s.entries[base + i].data(), s.entries[base + i].data() + s.entries[base + i].size()};
      careful[i] = rows_not_finite(rows.q, rows.dout, kQuad * padded);
      if (job.shape.far_field) backward_far(head, out, s.far_entries[base + i], rows, careful[i]);
    }
    for (Index i = next_quad(cursors, some); i >= 0; i = next_quad(cursors, some)) {
      backward_panel(head, out, cursors[i], rows_of_quad(base + i), careful[i]);
    }
  }
  write_dq(job, out, first, count, s);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
