// Gradients of linear attention: a scan that keeps the state before each chunk, then one from the other side, whose
// state sums up what later queries ask of the keys. Compiled once per instruction set.
//
// With g_i = dout_i / denominator_i and h_i = -g_i . o_i:
//   dw_ij = g_i . v_j + h_i,  dphi(q_i) = sum_j dw_ij phi(k_j),  dphi(k_j) = sum_i dw_ij phi(q_i),  dv_j = sum_i w_ij
//   g_i
#pragma once

#include "hsattn/baselines/scan-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// Keeps the state before each chunk.
static void keep_states(const ScanJob& job, ScanBackwardScratch& s) {
  const PackedFeatures& f = *job.features;
  const Index sums = f.dim * f.padded;
  Index number = 0;
  for (Index begin = 0; begin < job.keys(); begin += kChunk, ++number) {
    float* const kept = s.states.get() + number * s.state_size;
    __builtin_memcpy(kept, s.state.sums.get(), static_cast<std::size_t>(sums) * sizeof(float));
    __builtin_memcpy(kept + sums, s.state.totals.get(), static_cast<std::size_t>(f.padded) * sizeof(float));
    s.state_exponents[number] = s.state.exponent;
    if (begin + kChunk >= job.keys()) break;
    Chunk chunk = key_chunk(job, begin);
    load_keys(job, chunk, s);
    find_tops(f, chunk, s.state.exponent, s);
    absorb<true>(f, chunk, s.state, s);
  }
}

// g and h of one head's queries.
HSATTN_INLINE void output_gradients(const ScanJob& job, const ScanBackwardJob& b, const Chunk& chunk, Index head,
                                    ScanBackwardScratch& s) {
  const PackedFeatures& f = *job.features;
  const Index query = chunk.query(job, chunk.first), rows = chunk.count - chunk.first, at = chunk.first * f.padded_dim;
  load_rows(b.dout, head, query, rows, 1, f.padded_dim, s.g.get() + at);
  load_rows(b.o, head, query, rows, 1, f.padded_dim, s.o.get() + at);
  for (Index i = chunk.first; i < chunk.count; ++i) {
    float* const g = s.g.get() + i * f.padded_dim;
    scale_row(g, f.padded_dim, 1 / s.sums[i]);
    s.h[i] = -dot_of_rows(g, s.o.get() + i * f.padded_dim, f.padded_dim);
  }
}

// Gradients of the weights within the chunk, scaled as these are.
HSATTN_INLINE void weight_gradients(const PackedFeatures& f, const Chunk& chunk, bool apart, ScanBackwardScratch& s) {
  for_row_tiles(chunk.first, chunk.count, apart, [&](Index row, auto rows) {
    constexpr int R = decltype(rows)::value;
    const Index columns = (row + R + kLanes - 1) / kLanes * kLanes;
    float* const dw = s.dweights.get() + row * kChunk;
    for (int r = 0; r < R; ++r) {
      for (Index c = 0; c < columns; c += kLanes) store(dw + r * kChunk + c, set1(s.h[row + r]));
    }
    product_rows<R, true>({s.g.get() + row * f.padded_dim, f.padded_dim, 1}, {s.v_t.get(), kChunk}, f.dim, columns,
                          {dw, kChunk});
    for (int r = 0; r < R; ++r) finish_weights(f, dw + r * kChunk, row + r, columns, s);
  });
}

// dphi(q): through the state, then, in causal attention, within the chunk.
HSATTN_INLINE void query_gradients(const ScanJob& job, const Chunk& chunk, const StateBefore& before, bool apart,
                                   ScanBackwardScratch& s) {
  const PackedFeatures& f = *job.features;
  const Result d{s.dphi_q.get(), f.padded};
  for (Index i = chunk.first; i < chunk.count; ++i) {
    float* const row = d.data + i * d.stride;
    for (Index c = 0; c < f.padded; c += kLanes) store(row + c, mul(set1(s.h[i]), load(before.totals + c)));
  }
  product<true>({s.g.get(), f.padded_dim, 1}, {before.sums, f.padded}, before.empty ? 0 : f.dim, f.padded, d,
                chunk.first, chunk.count);
  scale_rows(f, chunk, before, d, s);
  if (!job.causal) return;
  for_row_tiles(chunk.first, chunk.count, apart, [&](Index row, auto rows) {
    constexpr int R = decltype(rows)::value;
    product_rows<R, true>({s.dweights.get() + row * kChunk, kChunk, 1}, {s.phi_k.get(), f.padded}, row + R, f.padded,
                          {d.data + row * d.stride, d.stride});
  });
}

// What the chunk's own queries add to dphi(k) and dv.
HSATTN_INLINE void add_key_gradients(const PackedFeatures& f, const Chunk& chunk, bool apart, ScanBackwardScratch& s) {
  for_row_tiles(0, chunk.count, apart, [&](Index key, auto rows) {
    constexpr int R = decltype(rows)::value;
    const Index from = max_of(key, chunk.first), depth = chunk.count - from, at = from * kChunk + key;
    product_rows<R, true>({s.dweights.get() + at, 1, kChunk}, {s.phi_q.get() + from * f.padded, f.padded}, depth,
                          f.padded, {s.dphi_k.get() + key * f.padded, f.padded});
    product_rows<R, true>({s.weights.get() + at, 1, kChunk}, {s.g.get() + from * f.padded_dim, f.padded_dim}, depth,
                          f.padded_dim, {s.dv.get() + key * f.padded_dim, f.padded_dim});
  });
}

// Adds the chunk's queries to what later queries ask of the keys before; scales s.phi_q.
HSATTN_INLINE void add_later(const PackedFeatures& f, const Chunk& chunk, const StateBefore& before,
                             ScanBackwardScratch& s) {
  float* const phi = s.phi_q.get();
  scale_rows(f, chunk, before, {phi, f.padded}, s);
  for (Index i = chunk.first; i < chunk.count; ++i) {
    add_scaled_row(s.later.totals.get(), phi + i * f.padded, f.padded, s.h[i]);
  }
  product<true>({phi + chunk.first * f.padded, 1, f.padded}, {s.g.get() + chunk.first * f.padded_dim, f.padded_dim},
                chunk.count - chunk.first, f.padded_dim, {s.later.sums.get(), f.padded_dim}, 0, f.count);
  s.later.empty = false;
}

// One head's queries of the chunk: dq, and what they ask of the chunk's keys and of those before.
HSATTN_INLINE void head_gradients(const ScanJob& job, const ScanBackwardJob& b, const Chunk& chunk,
                                  const StateBefore& before, Index head, ScanBackwardScratch& s) {
  const PackedFeatures& f = *job.features;
  load_queries(job, chunk, head, s);
  state_sums(f, chunk, before, s);
  if (job.causal) chunk_weights(f, chunk, chunk.apart, s);
  output_gradients(job, b, chunk, head, s);
  const bool apart = chunk.apart || !all_finite(s.phi_q.get(), chunk.first, chunk.count, f.padded) ||
                     !all_finite(s.g.get(), chunk.first, chunk.count, f.padded_dim);
  if (job.causal) {
    weight_gradients(f, chunk, apart, s);
    add_key_gradients(f, chunk, apart, s);
  }
  query_gradients(job, chunk, before, apart, s);
  gradients_of_rows(f, nullptr, s.phi_q.get(), s.dphi_q.get(), chunk.first, chunk.count, s.o.get());
  store_rows(s.o.get() + chunk.first * f.padded_dim, f.padded_dim, chunk.query(job, chunk.first),
             chunk.count - chunk.first, head, b.dq);
  if (!before.empty) add_later(f, chunk, before, s);
}

// dphi(k) and dv, as far as later queries ask for them; `top` is the scale of what they ask.
HSATTN_INLINE void gradients_from_later(const PackedFeatures& f, const Chunk& chunk, float top,
                                        ScanBackwardScratch& s) {
  const Index features = s.later.empty ? 0 : f.count, dims = s.later.empty ? 0 : f.dim;
  const Result dphi{s.dphi_k.get(), f.padded}, dv{s.dv.get(), f.padded_dim};
  for (Index j = 0; j < chunk.count; ++j) {
    for (Index c = 0; c < f.padded; c += kLanes) store(dphi.data + j * f.padded + c, load(s.later.totals.get() + c));
  }
  product<true>({s.v.get(), f.padded_dim, 1}, {s.later_t.get(), f.padded}, dims, f.padded, dphi, 0, chunk.count);
  product<false>({s.phi_k.get(), f.padded, 1}, {s.later.sums.get(), f.padded_dim}, features, f.padded_dim, dv, 0,
                 chunk.count);
  if (!f.random) return;
  for (Index j = 0; j < chunk.count; ++j) {
    const float factor = power_of_two(s.exponents[j] - top);
    scale_row(dphi.data + j * dphi.stride, f.padded, factor);
    scale_row(dv.data + j * dv.stride, f.padded_dim, factor);
  }
}

HSATTN_INLINE void store_key_gradients(const ScanJob& job, const ScanBackwardJob& b, const Chunk& chunk,
                                       ScanBackwardScratch& s) {
  const PackedFeatures& f = *job.features;
  load_rows(job.k, 0, chunk.begin, chunk.count, f.root_scale, f.padded_dim, s.x.get());
  gradients_of_rows(f, s.x.get(), s.phi_k.get(), s.dphi_k.get(), 0, chunk.count, s.o.get());
  store_rows(s.o.get(), f.padded_dim, chunk.begin, chunk.count, 0, b.dk);
  store_rows(s.dv.get(), f.padded_dim, chunk.begin, chunk.count, 0, b.dv);
}

// From now on `later` is scaled for keys up to `now` instead of `before`.
HSATTN_INLINE void rescale_later(const PackedFeatures& f, float before, float now, ScanBackwardScratch& s) {
  if (!f.random || before == now) return;
  scale_row(s.later.sums.get(), f.padded * f.padded_dim, power_of_two(now - before));
  scale_row(s.later.totals.get(), f.padded, power_of_two(now - before));
}

HSATTN_INLINE void transpose_later(const PackedFeatures& f, ScanBackwardScratch& s) {
  transpose(s.later.sums.get(), f.padded_dim, f.padded, f.padded_dim, s.later_t.get(), f.padded);
}

static void causal_backward(const ScanJob& job, const ScanBackwardJob& b, ScanBackwardScratch& s) {
  const PackedFeatures& f = *job.features;
  keep_states(job, s);
  for (Index number = (job.keys() + kChunk - 1) / kChunk - 1; number >= 0; --number) {
    const float* const sums = s.states.get() + number * s.state_size;
    const StateBefore before{sums, sums + f.dim * f.padded, s.state_exponents[number], number == 0};
    Chunk chunk = key_chunk(job, number * kChunk);
    load_keys(job, chunk, s);
    find_tops(f, chunk, before.exponent, s);
    transpose(s.phi_k.get(), f.padded, chunk.count, f.padded, s.phi_k_t.get(), kChunk);
    transpose(s.v.get(), f.padded_dim, chunk.count, f.padded_dim, s.v_t.get(), kChunk);
    const float top = s.tops[chunk.count - 1];
    gradients_from_later(f, chunk, top, s);
    rescale_later(f, top, before.exponent, s);
    if (chunk.first < chunk.count) {
      for (Index head = 0; head < job.group; ++head) head_gradients(job, b, chunk, before, head, s);
    }
    transpose_later(f, s);
    store_key_gradients(job, b, chunk, s);
  }
}

static void bidirectional_backward(const ScanJob& job, const ScanBackwardJob& b, ScanBackwardScratch& s) {
  const PackedFeatures& f = *job.features;
  absorb_all<true>(job, s);
  const StateBefore all = view_of(s.state);
  for (Index first = 0; first < job.queries(); first += kChunk) {
    const Chunk chunk = query_chunk(job, first, s);
    for (Index head = 0; head < job.group; ++head) head_gradients(job, b, chunk, all, head, s);
  }
  transpose_later(f, s);
  for (Index begin = 0; begin < job.keys(); begin += kChunk) {
    Chunk chunk = key_chunk(job, begin);
    load_keys(job, chunk, s);
    gradients_from_later(f, chunk, all.exponent, s);
    store_key_gradients(job, b, chunk, s);
  }
}

static void scan_backward(const ScanJob& job, const ScanBackwardJob& b, ScanBackwardScratch& s) {
  if (job.causal) {
    causal_backward(job, b, s);
  } else {
    bidirectional_backward(job, b, s);
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
