// Backward with tile registers: see strip-inl.h. Per panel of a strip: weights p and their gradients ds = p (dp -
// delta), then dq += ds k. Strips that have the same panel serve its keys together, dk += ds q and dv += p dout, as
// columns: [dimensions, keys] = [dimensions, rows] [rows, keys], so that weights are used as they are found.
#pragma once

#include "hsattn/kernels/cpu/backward-inl.h"
#include "hsattn/kernels/cpu/strip-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

constexpr int kRowPairs = kStripRows / 2;

// Registers 0 to 3: sums; 4, 5: what is multiplied.
constexpr TileShapes kBackwardShapes{{16, 16, 16, 16, 16, 16, 1, 1}, {16, 16, 16, 16, 16, 16, 1, 1}};

// What a strip brings to its panels.
struct BackwardStrip {
  const float* q_pairs;     // [16, depth]: pairs of dimensions
  const float* dout_pairs;  // [16, depth]
  const float* q;           // [16, padded dim]
  const float* dout;
  float* dq;
  const float* lse;  // [16]
  const float* delta;
  float scale;   // not negative: see complete_pairs
  bool careful;  // some query or gradient of the tile is not finite
};

struct StripGradients {
  alignas(64) float p[kStripRows * kPanel];             // products of q and keys, then weights
  alignas(64) float ds[kStripRows * kPanel];            // products of dout and values, then gradients of weights
  alignas(64) float ds_words[kStripRows * kPanel / 2];  // pairs of keys
};

// Of one row: products become weights and their gradients, 0 where it does not see a key.
HSATTN_INLINE void weigh_gradients(const BackwardStrip& strip, const StripPanel& panel, int row, F* p, F* ds) {
  const F lse = set1(strip.lse[row]), delta = set1(strip.delta[row]), scale = set1(strip.scale);
  each<kVectors>([&](int c) HSATTN_ALWAYS {
    const M seen = lanes_of(panel.seen[row] + 2 * c);
    const F score = sub(mul(p[c], scale), lse);
    const F x = min_keep_nan(zero(), max_keep_nan(set1(-200.0F), score));  // p is at most 1
    p[c] = select(seen, exp_minus<false>(x, zero()), zero());
    ds[c] = select(seen, mul(p[c], sub(ds[c], delta)), zero());
  });
}

// All rows; pairs of rows [8, 64] are what keys need.
HSATTN_INLINE void weigh_strip_gradients(const BackwardStrip& strip, const StripPanel& panel, StripGradients& g,
                                         float* p_pairs, float* ds_pairs) {
  for (int i = 0; i < kRowPairs; ++i) {
    F p[2][kVectors], ds[2][kVectors];
    each<2>([&](int half) HSATTN_ALWAYS {
      const int row = 2 * i + half;
      float* const of_row = g.p + row * kPanel;
      float* const ds_of_row = g.ds + row * kPanel;
      each<kVectors>([&](int c) HSATTN_ALWAYS {
        p[half][c] = load(of_row + c * kLanes);
        ds[half][c] = load(ds_of_row + c * kLanes);
      });
      weigh_gradients(strip, panel, row, p[half], ds[half]);
      each<kVectors / 2>([&](int c) HSATTN_ALWAYS {
        store(g.ds_words + row * kPanel / 2 + c * kLanes, pairs_of_neighbours(ds[half][2 * c], ds[half][2 * c + 1]));
      });
      if (!strip.careful) return;
      each<kVectors>([&](int c) HSATTN_ALWAYS {
        store(of_row + c * kLanes, p[half][c]);
        store(ds_of_row + c * kLanes, ds[half][c]);
      });
    });
    each<kVectors>([&](int c) HSATTN_ALWAYS {
      store(p_pairs + i * kPanel + c * kLanes, pairs_of_lanes(p[0][c], p[1][c]));
      store(ds_pairs + i * kPanel + c * kLanes, pairs_of_lanes(ds[0][c], ds[1][c]));
    });
  }
}

// Strips with the same panel, whose keys are served together: sums of keys are fetched once for all of them. Weights of
// two neighbouring strips lie one behind the other, [16 pairs of rows, 64], and fill a register; so do their rows,
// turned.
struct WaitingStrips {
  static constexpr int kMost = static_cast<int>(kSideBySide) / kStripQuads;
  Index unit[kSlots];
  bool whole[kHalves];
  Index first = 0;      // strip of the tile, a multiple of kMost
  unsigned strips = 0;  // bit i: strip first + i waits
  alignas(64) float p[kMost * kRowPairs * kPanel];
  alignas(64) float ds[kMost * kRowPairs * kPanel];

  HSATTN_ALWAYS bool takes(const StripPanel& panel, Index strip) const {
    if (strip / kMost * kMost != first || (strips >> (strip % kMost) & 1U) != 0) return false;
    return __builtin_memcmp(unit, panel.unit, sizeof unit) == 0 &&
           __builtin_memcmp(whole, panel.whole, sizeof whole) == 0;
  }
  HSATTN_ALWAYS void add(const StripPanel& panel, Index strip) {
    first = strip / kMost * kMost;
    strips |= 1U << (strip % kMost);
    __builtin_memcpy(unit, panel.unit, sizeof unit);
    __builtin_memcpy(whole, panel.whole, sizeof whole);
  }
};

// Weights [16, 16] of two strips, and their rows [padded, 16].
struct OwedByStrips {
  const float* weights[WaitingStrips::kMost / 2];
  const float* turned[WaitingStrips::kMost / 2];
  int count = 0;
};

// sums [padded, 16] += turned rows times weights, for N vectors of dimensions.
template <int N>
HSATTN_INLINE void add_some_dims(const OwedByStrips& owed, Index stride, Index dim, float* sums) {
  each_register<N>([&](auto i) HSATTN_ALWAYS { tile_load<i.value>(sums + (dim + i.value * kLanes) * kLanes, kLanes); });
  for (int t = 0; t < owed.count; ++t) {
    tile_load<5>(owed.weights[t], stride);
    each_register<N>([&](auto i) HSATTN_ALWAYS {
      tile_load<4>(owed.turned[t] + (dim + i.value * kLanes) * kLanes, kLanes);
      tile_add_products<i.value, 4, 5>();
    });
  }
  each_register<N>([&](auto i)
                       HSATTN_ALWAYS { tile_store<i.value>(sums + (dim + i.value * kLanes) * kLanes, kLanes); });
}

HSATTN_INLINE void add_to_columns(const OwedByStrips& owed, Index stride, Index padded, float* sums) {
  Index dim = 0;
  for (; dim + 4 * kLanes <= padded; dim += 4 * kLanes) add_some_dims<4>(owed, stride, dim, sums);
  for (; dim < padded; dim += kLanes) add_some_dims<1>(owed, stride, dim, sums);
}

// Adds what waits, `weights` and `turned` rows of the tile, to all keys of the panel. The weights of a single unit are
// given zeros for company: sums lie in columns of two units.
HSATTN_APART void serve_keys(const WaitingStrips& w, const float* weights, const float* turned, Index padded,
                             float* sums) {
  const auto columns_of = [&](Index unit) HSATTN_ALWAYS { return sums + unit / 2 * padded * kLanes; };
  alignas(64) float alone[WaitingStrips::kMost / 2][kStripRows * kLanes];
  for (int c = 0; c < kVectors; ++c) {
    for (int slot = 2 * c; slot < 2 * c + 2 && w.unit[slot] != kNoUnit; ++slot) {
      const bool whole = w.whole[c / 2];
      OwedByStrips owed;
      for (int t = 0; t < WaitingStrips::kMost / 2; ++t) {
        if ((w.strips >> (2 * t) & 3U) == 0) continue;
        const float* of_two = weights + t * kStripRows * kPanel;
        owed.turned[owed.count] = turned + (w.first / 2 + t) * padded * kLanes;
        owed.weights[owed.count] = whole ? of_two + c * kLanes : alone[t];
        ++owed.count;
        if (whole) continue;
        const Index half = w.unit[slot] % 2 * kUnit;
        for (int i = 0; i < kStripRows; ++i) {
          half_store(alone[t] + i * kLanes + half, half_load(of_two + i * kPanel + slot * kUnit));
          half_store(alone[t] + i * kLanes + kUnit - half, half_zero());
        }
      }
      add_to_columns(owed, whole ? kPanel : kLanes, padded, columns_of(w.unit[slot]));
      if (whole) break;
    }
  }
}

HSATTN_INLINE void serve_waiting(WaitingStrips& w, const BackwardJob& out, Index padded, const Scratch& s) {
  if (w.strips == 0) return;
  for (int i = 0; i < WaitingStrips::kMost; ++i) {  // the other half of a register
    if ((w.strips >> i & 1U) != 0 || (w.strips >> (i ^ 1) & 1U) == 0) continue;
    for (float* weights : {w.p, w.ds})
      __builtin_memset(weights + i * kRowPairs * kPanel, 0, kRowPairs * kPanel * sizeof(float));
  }
  serve_keys(w, w.ds, s.q_row_pairs, padded, out.dk);
  serve_keys(w, w.p, s.dout_row_pairs, padded, out.dv);
  w.strips = 0;
}

// What the numbers of rows that are not finite, which turned rows leave out, add to the keys that their rows see.
HSATTN_INLINE void add_not_finite_rows(const float* rows, Index padded, const StripPanel& panel, const float* weights,
                                       float* sums) {
  for (int r = 0; r < kStripRows; ++r) {
    if (panel.lanes(r) == 0) continue;
    for (Index d = 0; d < padded; ++d) {
      const float x = rows[r * padded + d];
      if (__builtin_isfinite(x)) continue;
      for (std::uint64_t left = panel.lanes(r); left != 0; left &= left - 1) {
        const int key = __builtin_ctzll(left);
        const Index unit = panel.unit[key / kUnit];
        sums[(unit / 2 * padded + d) * kLanes + unit % 2 * kUnit + key % kUnit] += weights[r * kPanel + key] * x;
      }
    }
  }
}

HSATTN_INLINE void backward_strip_panel(const PackedHead& head, const BackwardJob& out, const BackwardStrip& strip,
                                        Index index, StripCursor& cursor, const Scratch& s, WaitingStrips& waiting) {
  StripPanel panel;
  StripColumns columns;
  StripRowsOfUnits rows;
  StripGradients g;
  take_strip_panel(head, cursor, panel);
  columns.find(head.keys_t, head.depth, panel);
  scores_of_strip(strip.q_pairs, head.depth, columns, g.p);
  columns.find(head.values_t, head.depth, panel);
  scores_of_strip(strip.dout_pairs, head.depth, columns, g.ds);
  if (!waiting.takes(panel, index)) serve_waiting(waiting, out, head.padded_dim, s);
  waiting.add(panel, index);
  const Index place = index % WaitingStrips::kMost * kRowPairs * kPanel;
  weigh_strip_gradients(strip, panel, g, waiting.p + place, waiting.ds + place);
  rows.find(head.key_rows, panel, true);
  weighted_units_of_strip(head, g.ds_words, panel, rows, true, strip.dq);
  if (panel.careful) add_not_finite(head, head.key_rows, panel, g.ds_words, strip.dq);
  if (!strip.careful) return;
  add_not_finite_rows(strip.q, head.padded_dim, panel, g.ds, out.dk);
  add_not_finite_rows(strip.dout, head.padded_dim, panel, g.p, out.dv);
}

// delta = dout . o as registers add it up: see load_deltas.
static void load_deltas_of_strips(const HeadJob& job, Index rows, Scratch& s) {
  constexpr Index kDims = 2 * kLanes;  // of one instruction
  const Index padded = job.packed->padded_dim;
  for (Index row = 0; row < rows; ++row) {
    const float* dout = s.dout + row * padded;
    const float* o = s.o + row * padded;
    float sum = 0;
    for (Index first = 0; first < padded; first += kDims) {
      float even = 0, odd = 0;
      for (Index d = first; d < min_of(padded, first + kDims); d += 2) {
        even = fused_multiply_add(dout[d], o[d], even);
        odd = fused_multiply_add(dout[d + 1], o[d + 1], odd);
      }
      sum += even + odd;
    }
    s.delta[row] = sum;
  }
}

// Pairs of dimensions [rows, depth] as [strips / 2, padded dim, 16] pairs of rows, without what is not finite.
static void turn_rows(const float* pairs, Index rows, Index depth, Index padded, float* turned) {
  constexpr Index kTwo = 2 * kStrip;
  const auto finite_bits = [](std::uint16_t x)
                               HSATTN_ALWAYS { return static_cast<std::uint32_t>((x & 0x7f80U) == 0x7f80U ? 0U : x); };
  const auto* from = reinterpret_cast<const std::uint16_t*>(pairs);
  auto* to = reinterpret_cast<std::uint32_t*>(turned);
  __builtin_memset(to, 0, static_cast<std::size_t>((rows + kTwo - 1) / kTwo * kStrip * padded) * sizeof *to);
  for (Index row = 0; row < rows; row += 2, from += 4 * depth) {  // rows come in fours
    std::uint32_t* column = to + row / kTwo * kStrip * padded + row % kTwo / 2;
    for (Index d = 0; d < padded; ++d)
      column[d * kStrip] = finite_bits(from[d]) | finite_bits(from[2 * depth + d]) << 16;
  }
}

static void load_backward_strips(const HeadJob& job, const BackwardJob& out, Index first, Index count, Scratch& s) {
  const Index depth = job.packed->depth, padded = job.packed->padded_dim, rows = count * job.group;
  const Index all_rows = (rows + 2 * kStrip - 1) / (2 * kStrip) * (2 * kStrip);
  load_backward_rows<Floats>(job, out, first, count, s);
  load_tile_pairs(job.q, job.group, first, count, 2 * depth, s.q_pairs, nullptr);
  load_tile_pairs(out.dout, job.group, first, count, 2 * depth, s.dout_pairs, nullptr);
  complete_pairs(rows, depth, false, s.q_pairs);
  complete_pairs(rows, depth, false, s.dout_pairs);
  turn_rows(s.q_pairs, rows, depth, padded, s.q_row_pairs);
  turn_rows(s.dout_pairs, rows, depth, padded, s.dout_row_pairs);
  load_lse(job, out, first, count, s);
  load_deltas_of_strips(job, rows, s);
  __builtin_memset(s.dq, 0, static_cast<std::size_t>(all_rows * padded) * sizeof(float));
}

static void backward_tile_by_strips(const HeadJob& job, const BackwardJob& out, Index first, Index count, Scratch& s) {
  const PackedHead& head = *job.packed;
  const Index rows = count * job.group, quads = (rows + kQuad - 1) / kQuad, padded = head.padded_dim;
  load_backward_strips(job, out, first, count, s);
  build_tile_entries(job, first, count, tile_lists(job, first, count, s), false, s);
  const bool careful = rows_not_finite(s.q, s.dout, quads * kQuad * padded);
  for (Index quad = 0; quad < quads && job.shape.far_field; ++quad) {
    const Index row = quad * kQuad, at = row * padded;
    backward_far(head, out, far_of(s, quad),
                 BackwardRows{s.q + at, s.dout + at, s.dq + at, s.lse + row, s.delta + row, nullptr, nullptr}, careful);
  }
  {
    const TileRegisters registers(kBackwardShapes);
    WaitingStrips waiting;
    for_each_strip_panel(s, quads, [&](Index strip, StripCursor& cursor) HSATTN_ALWAYS {
      const Index row = strip * kStrip, at = row * padded;
      const BackwardStrip rows_of_strip{s.q_pairs + row * head.depth,
                                        s.dout_pairs + row * head.depth,
                                        s.q + at,
                                        s.dout + at,
                                        s.dq + at,
                                        s.lse + row,
                                        s.delta + row,
                                        job.scale,
                                        careful};
      backward_strip_panel(head, out, rows_of_strip, strip, cursor, s, waiting);
    });
    serve_waiting(waiting, out, padded, s);
  }
  write_dq(job, out, first, count, s);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
