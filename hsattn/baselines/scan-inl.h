// Linear attention as a scan over chunks of keys: products within the chunk, and one with the state of all before it.
// Compiled once per instruction set.
//
// Weights have powers of two of their own (performer's): w_ij = (phi(q_i) . phi(k_j)) 2^(exponent of j - top of i),
// where top of i is the largest exponent among the keys that i sees. All scaling is exact, and none of it looks ahead.
#pragma once

#include "hsattn/baselines/features-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// Tokens of a chunk. Rows of its tensors count from `begin`; queries are rows [first, count).
struct Chunk {
  Index begin = 0, count = 0;
  Index first = 0;
  bool apart = false;  // something is not finite: what a row does not see must not even be multiplied by 0

  Index query(const ScanJob& job, Index row) const { return begin + row - job.first_position(); }
};

// A chunk of keys, with the queries at their positions.
HSATTN_INLINE Chunk key_chunk(const ScanJob& job, Index begin) {
  Chunk chunk;
  chunk.begin = begin;
  chunk.count = min_of(kChunk, job.keys() - begin);
  chunk.first = min_of(chunk.count, max_of<Index>(0, job.first_position() - begin));
  return chunk;
}

// phi(k), v and top of each position; in causal attention the state holds the keys before.
template <class Scratch>
HSATTN_INLINE void load_keys(const ScanJob& job, Chunk& chunk, Scratch& s) {
  const PackedFeatures& f = *job.features;
  load_rows(job.k, 0, chunk.begin, chunk.count, f.root_scale, f.padded_dim, s.x.get());
  features_of_rows(f, s.x.get(), 0, chunk.count, s.phi_k.get(), s.exponents.get());
  load_rows(job.v, 0, chunk.begin, chunk.count, 1, f.padded_dim, s.v.get());
  chunk.apart =
      !all_finite(s.v.get(), 0, chunk.count, f.padded_dim) || !all_finite(s.phi_k.get(), 0, chunk.count, f.padded);
}

// top of each position of the chunk, the state before it being scaled 2^before.
HSATTN_INLINE void find_tops(const PackedFeatures& f, const Chunk& chunk, float before, ScanScratch& s) {
  float top = before;
  for (Index j = 0; j < chunk.count; ++j) {
    top = f.random ? max_of(top, s.exponents[j]) : 0;
    s.tops[j] = top;
  }
}

// Weights of row i of the chunk, made of its dot products: scaled, and 0 for later keys. Returns their sum.
HSATTN_INLINE float finish_weights(const PackedFeatures& f, float* row, Index i, Index columns, ScanScratch& s) {
  const F top = set1(s.tops[i]);
  F sum = zero();
  for (Index c = 0; c < columns; c += kLanes) {
    F w = load(row + c);
    if (f.random) w = scale_by_power(w, sub(load(s.exponents.get() + c), top));
    w = first_lanes(w, i + 1 - c);
    store(row + c, w);
    sum = add(sum, w);
  }
  return sum_of_lanes(sum);
}

// s.weights and the part of the denominators that lies within the chunk: s.sums += row sums.
HSATTN_INLINE void chunk_weights(const PackedFeatures& f, const Chunk& chunk, bool apart, ScanScratch& s) {
  for_row_tiles(chunk.first, chunk.count, apart, [&](Index row, auto rows) {
    constexpr int R = decltype(rows)::value;
    const Index columns = (row + R + kLanes - 1) / kLanes * kLanes;
    float* const w = s.weights.get() + row * kChunk;
    product_rows<R, false>({s.phi_q.get() + row * f.padded, f.padded, 1}, {s.phi_k_t.get(), kChunk}, f.count, columns,
                           {w, kChunk});
    for (int r = 0; r < R; ++r) s.sums[row + r] += finish_weights(f, w + r * kChunk, row + r, columns, s);
  });
}

// What a chunk's queries need of the keys before it.
struct StateBefore {
  const float* sums;    // [padded features, padded dim], or transposed
  const float* totals;  // [padded features]
  float exponent;
  bool empty;

  // From the state's scale to that of a row.
  HSATTN_ALWAYS float factor(float top) const { return power_of_two(exponent - top); }
};

HSATTN_INLINE StateBefore view_of(const ScanState& state) {
  return {state.sums.get(), state.totals.get(), state.exponent, state.empty};
}

// Denominators, less what lies within the chunk.
HSATTN_INLINE void state_sums(const PackedFeatures& f, const Chunk& chunk, const StateBefore& before, ScanScratch& s) {
  for (Index i = chunk.first; i < chunk.count; ++i) {
    s.sums[i] = before.empty ? 0 : dot_of_rows(s.phi_q.get() + i * f.padded, before.totals, f.padded);
    if (f.random) s.sums[i] *= before.factor(s.tops[i]);
  }
}

// Rows of queries from the scale of the state to their own.
HSATTN_INLINE void scale_rows(const PackedFeatures& f, const Chunk& chunk, const StateBefore& before, Result c,
                              const ScanScratch& s) {
  if (!f.random) return;
  for (Index i = chunk.first; i < chunk.count; ++i)
    scale_row(c.data + i * c.stride, c.stride, before.factor(s.tops[i]));
}

// Adds the chunk's keys to the state, whose sums are [padded features, padded dim], or transposed. Scales s.phi_k.
template <bool kTransposed>
HSATTN_APART void absorb(const PackedFeatures& f, const Chunk& chunk, ScanState& state, ScanScratch& s) {
  float* const phi = s.phi_k.get();
  if (f.random) {
    const float top = s.tops[chunk.count - 1];
    for (Index j = 0; j < chunk.count; ++j) scale_row(phi + j * f.padded, f.padded, power_of_two(s.exponents[j] - top));
    if (state.exponent != top) {
      const float factor = power_of_two(state.exponent - top);
      scale_row(state.sums.get(), f.padded * f.padded_dim, factor);
      scale_row(state.totals.get(), f.padded, factor);
    }
    state.exponent = top;
  }
  const float* const v = s.v.get();
  if constexpr (kTransposed) {
    product<true>({v, 1, f.padded_dim}, {phi, f.padded}, chunk.count, f.padded, {state.sums.get(), f.padded}, 0, f.dim);
  } else {
    product<true>({phi, 1, f.padded}, {v, f.padded_dim}, chunk.count, f.padded_dim, {state.sums.get(), f.padded_dim}, 0,
                  f.count);
  }
  for (Index j = 0; j < chunk.count; ++j) add_scaled_row(state.totals.get(), phi + j * f.padded, f.padded, 1);
  state.empty = false;
}

// All keys into the state, for bidirectional attention.
template <bool kTransposed>
HSATTN_INLINE void absorb_all(const ScanJob& job, ScanScratch& s) {
  for (Index begin = 0; begin < job.keys(); begin += kChunk) {
    Chunk chunk = key_chunk(job, begin);
    load_keys(job, chunk, s);
    find_tops(*job.features, chunk, s.state.exponent, s);
    absorb<kTransposed>(*job.features, chunk, s.state, s);
  }
}

// A chunk of queries of bidirectional attention, whose state holds all keys.
HSATTN_INLINE Chunk query_chunk(const ScanJob& job, Index first_query, ScanScratch& s) {
  Chunk chunk;
  chunk.begin = first_query + job.first_position();
  chunk.count = min_of(kChunk, job.queries() - first_query);
  for (Index i = 0; i < chunk.count; ++i) s.tops[i] = s.state.exponent;
  return chunk;
}

HSATTN_INLINE void load_queries(const ScanJob& job, const Chunk& chunk, Index head, ScanScratch& s) {
  const PackedFeatures& f = *job.features;
  load_rows(job.q, head, chunk.query(job, chunk.first), chunk.count - chunk.first, f.root_scale, f.padded_dim,
            s.x.get() + chunk.first * f.padded_dim);
  features_of_rows(f, s.x.get(), chunk.first, chunk.count, s.phi_q.get(), nullptr);
}

// o of one head's queries in the chunk.
HSATTN_INLINE void attend(const ScanJob& job, const Chunk& chunk, Index head, const WritableRows& out, ScanScratch& s) {
  const PackedFeatures& f = *job.features;
  if (chunk.first == chunk.count) return;
  load_queries(job, chunk, head, s);
  const Result o{s.o.get(), f.padded_dim};
  const StateBefore before = view_of(s.state);
  state_sums(f, chunk, before, s);
  product<false>({s.phi_q.get(), f.padded, 1}, {before.sums, f.padded_dim}, before.empty ? 0 : f.count, f.padded_dim, o,
                 chunk.first, chunk.count);
  scale_rows(f, chunk, before, o, s);
  if (job.causal) {
    chunk_weights(f, chunk, chunk.apart, s);
    for_row_tiles(chunk.first, chunk.count, chunk.apart, [&](Index row, auto rows) {
      constexpr int R = decltype(rows)::value;
      product_rows<R, true>({s.weights.get() + row * kChunk, kChunk, 1}, {s.v.get(), f.padded_dim}, row + R,
                            f.padded_dim, {o.data + row * o.stride, o.stride});
    });
  }
  for (Index i = chunk.first; i < chunk.count; ++i) scale_row(o.data + i * o.stride, o.stride, 1 / s.sums[i]);
  store_rows(o.data + chunk.first * o.stride, o.stride, chunk.query(job, chunk.first), chunk.count - chunk.first, head,
             out);
}

static void scan_forward(const ScanJob& job, const WritableRows& o, ScanScratch& s) {
  const PackedFeatures& f = *job.features;
  if (!job.causal) {
    absorb_all<false>(job, s);
    for (Index first = 0; first < job.queries(); first += kChunk) {
      const Chunk chunk = query_chunk(job, first, s);
      for (Index head = 0; head < job.group; ++head) attend(job, chunk, head, o, s);
    }
    return;
  }
  for (Index begin = 0; begin < job.keys(); begin += kChunk) {
    Chunk chunk = key_chunk(job, begin);
    load_keys(job, chunk, s);
    find_tops(f, chunk, s.state.exponent, s);
    transpose(s.phi_k.get(), f.padded, chunk.count, f.padded, s.phi_k_t.get(), kChunk);
    for (Index head = 0; head < job.group; ++head) attend(job, chunk, head, o, s);
    absorb<false>(f, chunk, s.state, s);
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
