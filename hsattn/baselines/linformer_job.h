// What the kernels of linformer get, and their table. One source, compiled once for each instruction set.
#pragma once

#include <algorithm>

#include "hsattn/base/buffer.h"
#include "hsattn/base/cpu.h"
#include "hsattn/baselines/linformer.h"
#include "hsattn/kernels/cpu/rows.h"

namespace hsattn {

/// How a sequence is cut. A piece is a run of keys that is projected to `rank` rows: a segment, or, if not causal,
/// everything. A context is what some queries attend: the first pieces, and tokens of their own.
struct LinformerShape {
  Index queries = 0, keys = 0, rank = 0, segment = 0;
  bool causal = true;

  struct Context {
    Range queries;
    Index pieces = 0;
    Range own;  ///< keys; each query sees them up to its position
  };

  Index position(Index query) const { return query + keys - queries; }
  Index contexts() const { return causal ? (keys + segment - 1) / segment : 1; }
  Context context(Index number) const;
  /// Pieces that some query attends.
  Index pieces() const { return causal ? (keys - 1) / segment : 1; }
  Range piece(Index number) const { return causal ? Range{number * segment, (number + 1) * segment} : Range{0, keys}; }
  /// Rows of the largest context.
  Index most_rows() const { return pieces() * rank + (causal ? std::min(segment, keys) : 0); }
  /// How many rows of its context a query sees, the first ones.
  Index seen(const Context& context, Index query) const {
    return context.pieces * rank + (causal ? position(query) - context.own.begin + 1 : 0);
  }
};

}  // namespace hsattn

namespace hsattn::cpu {

constexpr Index kQueryRows = 32;  // queries that are worked on at once

// One (sequence, key/value head) of a call.
struct LinformerJob {
  LinformerShape shape;
  Index group = 1, dim = 0, padded_dim = 0;
  float scale = 1;
  const float* project_keys = nullptr;  // [rank, longest]
  const float* project_values = nullptr;
  Index longest = 0;
  StoredRows q, k, v;

  struct Lse {
    float* data = nullptr;  // of the first head's first query; may be null in forward
    Index head_stride = 0;

    float* row(Index query, Index head) const { return data + head * head_stride + query; }
  } lse;
};

struct LinformerBackwardJob {
  StoredRows dout, o;
  WritableRows dq, dk, dv;
  float* dprojected_keys = nullptr;  // [pieces * rank, padded dim]: gradients of the projected rows
  float* dprojected_values = nullptr;
};

// Memory of one task.
struct LinformerScratch {
  Index width = 0;                                   // most rows of a context, rounded up to 16
  Buffer<float> projected_keys, projected_values;    // [pieces * rank, padded dim]
  Buffer<float> keys, values;                        // [width, padded dim]: a context
  Buffer<float> keys_t, values_t;                    // [padded dim, width]
  Buffer<float> q, o;                                // [32, padded dim]
  Buffer<float> weights;                             // [32, width]
  Buffer<float> dout, dq, dkeys, dvalues, dweights;  // of backward
  Buffer<float> rows;                                // [chunk, padded dim]

  LinformerScratch(const LinformerJob& job, bool backward);
};

// One piece of one head, for the gradients of the projections.
struct PieceOfHead {
  const float* dprojected_keys;  // [rank, padded dim]
  const float* dprojected_values;
  StoredRows k, v;  // from the piece's first token on
};

struct LinformerKernels {
  void (*forward)(const LinformerJob&, const WritableRows& o, LinformerScratch&);
  void (*backward)(const LinformerJob&, const LinformerBackwardJob&, LinformerScratch&);
  // Adds to columns [0, count) of de and df [rank, longest], count at most 64; `work` has room for 2 * 64 * padded dim
  // + 64 rank floats.
  void (*projections_backward)(const PieceOfHead&, Index count, Index rank, Index padded_dim, Index longest, float* de,
                               float* df, float* work);
};

const LinformerKernels& linformer_kernels_for(Isa isa);

namespace avx512 {
extern const LinformerKernels kLinformerKernels;
}
namespace avx2 {
extern const LinformerKernels kLinformerKernels;
}
namespace portable {
extern const LinformerKernels kLinformerKernels;
}

}  // namespace hsattn::cpu
