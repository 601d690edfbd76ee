// What the kernels of linear attention get, and their table. One source, compiled once for each instruction set.
#pragma once

#include "hsattn/base/buffer.h"
#include "hsattn/base/cpu.h"
#include "hsattn/baselines/linear.h"
#include "hsattn/kernels/cpu/rows.h"

namespace hsattn::cpu {

constexpr Index kChunk = 64;  // keys of a chunk

// A feature map as the kernels read it; made once per call. Padded sizes are multiples of 16, what they add is zeros.
struct PackedFeatures {
  bool random = false;  // performer's, else elu + 1
  Index dim = 0, padded_dim = 0;
  Index count = 0, padded = 0;  // features
  float root_scale = 1;         // rows are multiplied by it
  Buffer<float> rows;           // [padded, padded_dim]: w_f
  Buffer<float> columns;        // [dim, padded]

  PackedFeatures(const FeatureMap& map, Index dim, double scale);
};

// One (sequence, key/value head) of a call. Query i has position i + keys - queries.
struct ScanJob {
  const PackedFeatures* features = nullptr;
  bool causal = true;
  Index group = 1;  // query heads
  StoredRows q, k, v;

  Index queries() const { return q.count; }
  Index keys() const { return k.count; }
  Index first_position() const { return keys() - queries(); }
};

// Sums over keys, divided by 2^exponent. With elu + 1 the exponent stays 0.
struct ScanState {
  Buffer<float> sums;    // [padded features, padded dim], or the other way round
  Buffer<float> totals;  // [padded features]
  float exponent = 0;
  bool empty = true;  // no keys yet
};

// Memory of one task. Rows of a chunk's tensors are its tokens.
struct ScanScratch {
  ScanState state;
  Buffer<float> x, v, o;       // [chunk, padded dim]
  Buffer<float> phi_q, phi_k;  // [chunk, padded features]
  Buffer<float> phi_k_t;       // [padded features, chunk]
  Buffer<float> weights;       // [chunk, chunk]: row of a query, column of a key
  Buffer<float> exponents;     // [chunk]: of keys
  Buffer<float> tops;          // [chunk]: the largest exponent that each position sees
  Buffer<float> sums;          // [chunk]: denominators

  explicit ScanScratch(const PackedFeatures& features);
};

// Besides, of backward.
struct ScanBackwardJob {
  StoredRows dout, o;  // of the group's heads
  WritableRows dq, dk, dv;
};

struct ScanBackwardScratch : ScanScratch {
  Index state_size = 0;  // floats of one of `states`: sums and totals
  Buffer<float> states;  // [chunks, state_size]: the state before each chunk, its sums [padded dim, padded features]
  Buffer<float> state_exponents;  // [chunks]
  ScanState later;                // sums over later queries of phi(q) g, and of phi(q) h
  Buffer<float> later_t;          // its sums, transposed
  Buffer<float> g, dv;            // [chunk, padded dim]; g: dout over the denominator
  Buffer<float> h;                // [chunk]: minus g . o
  Buffer<float> v_t;              // [padded dim, chunk]
  Buffer<float> dweights;         // [chunk, chunk]
  Buffer<float> dphi_q, dphi_k;   // [chunk, padded features]

  ScanBackwardScratch(const PackedFeatures& features, Index chunks);
};

struct ScanKernels {
  // Goes on from scratch.state and leaves the state after the last key there.
  void (*forward)(const ScanJob&, const WritableRows& o, ScanScratch&);
  void (*backward)(const ScanJob&, const ScanBackwardJob&, ScanBackwardScratch&);
};

const ScanKernels& scan_kernels_for(Isa isa);

namespace avx512 {
extern const ScanKernels kScanKernels;
}
namespace avx2 {
extern const ScanKernels kScanKernels;
}
namespace portable {
extern const ScanKernels kScanKernels;
}

// Shared by all instruction sets; defined in scan.cc without vector flags.
//
// Memory of a task, filled with zeros.
Buffer<float> zeros(Index count);
// Rows [begin, begin + count) of a head, times `factor`, padded with zeros: [count, padded].
void load_rows(const StoredRows& rows, Index head, Index begin, Index count, float factor, Index padded, float* to);
// The other way.
void store_rows(const float* from, Index padded, Index begin, Index count, Index head, const WritableRows& rows);

}  // namespace hsattn::cpu
