// Linformer: keys and values are projected piece by piece, then each context is attended as a small full attention.
// Compiled once per instruction set.
#pragma once

#include "hsattn/baselines/features-inl.h"
#include "hsattn/baselines/linformer_job.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

using Context = LinformerShape::Context;

// [rank, padded dim] of each piece: projection times the piece's rows.
HSATTN_INLINE void project_pieces(const LinformerJob& job, const StoredRows& x, const float* projection, float* rows,
                                  float* projected) {
  const Index rank = job.shape.rank;
  for (Index number = 0; number < job.shape.pieces(); ++number) {
    const Range piece = job.shape.piece(number);
    const Result result{projected + number * rank * job.padded_dim, job.padded_dim};
    for (Index i = 0; i < rank * job.padded_dim; i += kLanes) store(result.data + i, zero());
    for (Index begin = piece.begin; begin < piece.end; begin += kChunk) {
      const Index count = min_of(kChunk, piece.end - begin);
      load_rows(x, 0, begin, count, 1, job.padded_dim, rows);
      product<true>({projection + begin, job.longest, 1}, {rows, job.padded_dim}, count, job.padded_dim, result, 0,
                    rank);
    }
  }
}

// Rows of a context: projected ones, then its own tokens; and the same transposed.
HSATTN_INLINE void build_context(const LinformerJob& job, const Context& context, const StoredRows& x,
                                 const float* projected, Index width, float* rows, float* rows_t) {
  const Index first = context.pieces * job.shape.rank, own = context.own.end - context.own.begin;
  __builtin_memcpy(rows, projected, static_cast<std::size_t>(first * job.padded_dim) * sizeof(float));
  load_rows(x, 0, context.own.begin, own, 1, job.padded_dim, rows + first * job.padded_dim);
  transpose(rows, job.padded_dim, first + own, job.padded_dim, rows_t, width);
}

// Some queries of one head in a context.
struct QueryRows {
  Index head, begin, count;
  Index first_seen;  // rows of the context that the first of them sees; each next one sees one more if causal
  bool causal, apart;

  HSATTN_ALWAYS Index seen(Index row) const { return first_seen + (causal ? row : 0); }
};

// Scores become exp(score - top) for the rows that are seen, else 0; returns their sum.
HSATTN_INLINE float exponentials(float* row, Index seen, Index columns, float top) {
  F sum = zero();
  for (Index c = 0; c < columns; c += kLanes) {
    const F x = min_keep_nan(zero(), max_keep_nan(set1(-87.0F), sub(load(row + c), set1(top))));
    const F p = first_lanes(exp_of_negative(x), seen - c);
    store(row + c, p);
    sum = add(sum, p);
  }
  return sum_of_lanes(sum);
}

HSATTN_INLINE float largest_score(const float* row, Index seen) {
  float top = kMasked;
  for (Index c = 0; c < seen; ++c) top = row[c] > top ? row[c] : top;
  return top;
}

// s.weights: scores of the queries, which are multiplied by the scale already.
template <int R>
HSATTN_INLINE Index score_rows(const LinformerJob& job, const QueryRows& queries, Index row, LinformerScratch& s) {
  const Index columns = (queries.seen(row + R - 1) + kLanes - 1) / kLanes * kLanes;
  product_rows<R, false>({s.q.get() + row * job.padded_dim, job.padded_dim, 1}, {s.keys_t.get(), s.width}, job.dim,
                         columns, {s.weights.get() + row * s.width, s.width});
  return columns;
}

HSATTN_INLINE void linformer_rows(const LinformerJob& job, const QueryRows& queries, const WritableRows& out,
                                  LinformerScratch& s) {
  load_rows(job.q, queries.head, queries.begin, queries.count, job.scale, job.padded_dim, s.q.get());
  for_row_tiles(0, queries.count, queries.apart, [&](Index row, auto rows) {
    constexpr int R = decltype(rows)::value;
    const Index columns = score_rows<R>(job, queries, row, s);
    float* const w = s.weights.get() + row * s.width;
    float sums[R];
    for (int r = 0; r < R; ++r) {
      const Index seen = queries.seen(row + r);
      const float top = largest_score(w + r * s.width, seen);
      sums[r] = exponentials(w + r * s.width, seen, columns, top);
      if (job.lse.data != nullptr) *job.lse.row(queries.begin + row + r, queries.head) = top + __builtin_logf(sums[r]);
    }
    float* const o = s.o.get() + row * job.padded_dim;
    product_rows<R, false>({w, s.width, 1}, {s.values.get(), job.padded_dim}, queries.seen(row + R - 1), job.padded_dim,
                           {o, job.padded_dim});
    for (int r = 0; r < R; ++r) scale_row(o + r * job.padded_dim, job.padded_dim, 1 / sums[r]);
  });
  store_rows(s.o.get(), job.padded_dim, queries.begin, queries.count, queries.head, out);
}

// Adds what the queries ask of the context's rows to s.dkeys and s.dvalues; writes dq.
HSATTN_INLINE void linformer_gradients(const LinformerJob& job, const LinformerBackwardJob& b, QueryRows queries,
                                       LinformerScratch& s) {
  const Index padded = job.padded_dim;
  load_rows(job.q, queries.head, queries.begin, queries.count, job.scale, padded, s.q.get());
  load_rows(b.dout, queries.head, queries.begin, queries.count, 1, padded, s.dout.get());
  load_rows(b.o, queries.head, queries.begin, queries.count, 1, padded, s.o.get());
  queries.apart |=
      !all_finite(s.q.get(), 0, queries.count, padded) || !all_finite(s.dout.get(), 0, queries.count, padded);
  for_row_tiles(0, queries.count, queries.apart, [&](Index row, auto rows) {
    constexpr int R = decltype(rows)::value;
    const Index columns = score_rows<R>(job, queries, row, s), depth = queries.seen(row + R - 1), at = row * padded;
    float* const w = s.weights.get() + row * s.width;
    float* const dw = s.dweights.get() + row * s.width;
    product_rows<R, false>({s.dout.get() + at, padded, 1}, {s.values_t.get(), s.width}, job.dim, columns,
                           {dw, s.width});
    for (int r = 0; r < R; ++r) {
      const Index seen = queries.seen(row + r);
      exponentials(w + r * s.width, seen, columns, *job.lse.row(queries.begin + row + r, queries.head));
      const F delta = set1(dot_of_rows(s.dout.get() + at + r * padded, s.o.get() + at + r * padded, padded));
      for (Index c = 0; c < columns; c += kLanes) {
        const Index i = r * s.width + c;
        store(dw + i, first_lanes(mul(load(w + i), sub(load(dw + i), delta)), seen - c));
      }
    }
    product_rows<R, false>({dw, s.width, 1}, {s.keys.get(), padded}, depth, padded, {s.dq.get() + at, padded});
    for (int r = 0; r < R; ++r) scale_row(s.dq.get() + at + r * padded, padded, job.scale);
  });
  for_row_tiles(0, queries.seen(queries.count - 1), queries.apart, [&](Index key, auto keys) {
    constexpr int K = decltype(keys)::value;
    const Index from = queries.causal ? max_of<Index>(0, key + 1 - queries.first_seen) : 0;  // sees the key first
    const Index depth = queries.count - from, at = from * s.width + key;
    product_rows<K, true>({s.dweights.get() + at, 1, s.width}, {s.q.get() + from * padded, padded}, depth, padded,
                          {s.dkeys.get() + key * padded, padded});
    product_rows<K, true>({s.weights.get() + at, 1, s.width}, {s.dout.get() + from * padded, padded}, depth, padded,
                          {s.dvalues.get() + key * padded, padded});
  });
  store_rows(s.dq.get(), padded, queries.begin, queries.count, queries.head, b.dq);
}

HSATTN_INLINE void build_contexts(const LinformerJob& job, const Context& context, LinformerScratch& s) {
  build_context(job, context, job.k, s.projected_keys.get(), s.width, s.keys.get(), s.keys_t.get());
  build_context(job, context, job.v, s.projected_values.get(), s.width, s.values.get(), s.values_t.get());
}

// body(queries) for the queries of a context, which is built first.
template <class Body>
HSATTN_INLINE void for_queries_of(const LinformerJob& job, const Context& context, LinformerScratch& s, Body body) {
  if (context.queries.begin >= context.queries.end) return;
  build_contexts(job, context, s);
  const Index rows = context.pieces * job.shape.rank + context.own.end - context.own.begin;
  const bool apart =
      !all_finite(s.keys.get(), 0, rows, job.padded_dim) || !all_finite(s.values.get(), 0, rows, job.padded_dim);
  for (Index head = 0; head < job.group; ++head) {
    for (Index begin = context.queries.begin; begin < context.queries.end; begin += kQueryRows) {
      const Index count = min_of(kQueryRows, context.queries.end - begin);
      body(QueryRows{head, begin, count, job.shape.seen(context, begin), job.shape.causal, apart});
    }
  }
}

HSATTN_INLINE void project(const LinformerJob& job, LinformerScratch& s) {
  project_pieces(job, job.k, job.project_keys, s.rows.get(), s.projected_keys.get());
  project_pieces(job, job.v, job.project_values, s.rows.get(), s.projected_values.get());
}

static void linformer_forward(const LinformerJob& job, const WritableRows& o, LinformerScratch& s) {
  project(job, s);
  for (Index number = 0; number < job.shape.contexts(); ++number) {
    for_queries_of(job, job.shape.context(number), s,
                   [&](const QueryRows& queries) { linformer_rows(job, queries, o, s); });
  }
}

// dx of tokens [begin, begin + 64): their gradients as tokens of a context, `own` or null, and what the rows that they
// are projected to ask of them, `dprojected` or null.
HSATTN_INLINE void token_gradients(const LinformerJob& job, Range tokens, const float* own, const float* projection,
                                   const float* dprojected, float* rows, const WritableRows& dx) {
  const Index padded = job.padded_dim;
  for (Index begin = tokens.begin; begin < tokens.end; begin += kChunk) {
    const Index count = min_of(kChunk, tokens.end - begin);
    for (Index i = 0; i < count * padded; i += kLanes)
      store(rows + i, own == nullptr ? zero() : load(own + (begin - tokens.begin) * padded + i));
    if (dprojected != nullptr) {
      product<true>({projection + begin, 1, job.longest}, {dprojected, padded}, job.shape.rank, padded, {rows, padded},
                    0, count);
    }
    store_rows(rows, padded, begin, count, 0, dx);
  }
}

HSATTN_INLINE void add_rows(const float* rows, Index count, float* to) {
  for (Index i = 0; i < count; i += kLanes) store(to + i, add(load(to + i), load(rows + i)));
}

// Contexts from the last to the first: when a segment's turn comes, all that attend its projection have been.
static void linformer_backward(const LinformerJob& job, const LinformerBackwardJob& b, LinformerScratch& s) {
  const LinformerShape& shape = job.shape;
  const Index padded = job.padded_dim;
  project(job, s);
  for (Index number = shape.contexts() - 1; number >= 0; --number) {
    const Context context = shape.context(number);
    for (Index i = 0; i < s.width * padded; i += kLanes) {
      store(s.dkeys.get() + i, zero());
      store(s.dvalues.get() + i, zero());
    }
    for_queries_of(job, context, s, [&](const QueryRows& queries) { linformer_gradients(job, b, queries, s); });
    const Index projected = context.pieces * shape.rank * padded;
    add_rows(s.dkeys.get(), projected, b.dprojected_keys);
    add_rows(s.dvalues.get(), projected, b.dprojected_values);

    const bool used = number < shape.pieces();  // as a piece
    const Index at = number * shape.rank * padded;
    const Range tokens = shape.causal ? context.own : shape.piece(0);
    token_gradients(job, tokens, shape.causal ? s.dkeys.get() + projected : nullptr, job.project_keys,
                    used ? b.dprojected_keys + at : nullptr, s.rows.get(), b.dk);
    token_gradients(job, tokens, shape.causal ? s.dvalues.get() + projected : nullptr, job.project_values,
                    used ? b.dprojected_values + at : nullptr, s.rows.get(), b.dv);
  }
}

// d [rank, longest] += dprojected x^T, for `count` tokens.
HSATTN_INLINE void projection_gradient(const float* dprojected, const StoredRows& x, Index count, Index rank,
                                       Index padded, Index longest, float* d, float* work) {
  float* const rows_t = work + kChunk * padded;
  float* const sums = rows_t + kChunk * padded;
  load_rows(x, 0, 0, count, 1, padded, work);
  transpose(work, padded, count, padded, rows_t, kChunk);
  product<false>({dprojected, padded, 1}, {rows_t, kChunk}, padded, kChunk, {sums, kChunk}, 0, rank);
  for (Index r = 0; r < rank; ++r) {
    for (Index t = 0; t < count; ++t) d[r * longest + t] += sums[r * kChunk + t];
  }
}

static void projections_backward(const PieceOfHead& piece, Index count, Index rank, Index padded_dim, Index longest,
                                 float* de, float* df, float* work) {
  projection_gradient(piece.dprojected_keys, piece.k, count, rank, padded_dim, longest, de, work);
  projection_gradient(piece.dprojected_values, piece.v, count, rank, padded_dim, longest, df, work);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
