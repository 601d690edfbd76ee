// The table of CPU kernels: one source, compiled once for each instruction set.
#pragma once

#include <vector>

#include "hsattn/base/cpu.h"
#include "hsattn/base/view.h"
#include "hsattn/kernels/cpu/layout.h"
#include "hsattn/kernels/cpu/lists.h"
#include "hsattn/kernels/cpu/rows.h"
#include "hsattn/plan/list_rule.h"

namespace hsattn::cpu {

// Budgets of a head's search; see docs/design.md, "Selection". Heads of a call differ in `kept` and `least` alone.
struct SearchBudgets {
  Index start_level = -1;                                    // -1: from top_nodes
  Index top_nodes = 0, beam = 0, candidates = 0, sinks = 0;  // nodes
  Index kept = 0;                                            // blocks, as the two at the end
  bool rescore = false;
  double mass = 0;  // if not 0: as few of the kept blocks as hold this share of the attention
  Index least = 0;  // but at least so many; `kept` without a mass budget

  bool operator==(const SearchBudgets&) const = default;
};

// One (batch, key/value head) of a call: what all its tiles share.
struct HeadJob {
  PlanShape shape;
  SearchBudgets search;
  const PackedHead* packed = nullptr;
  Index group = 1;  // query heads of this key/value head
  float scale = 1;
  StoredRows q;  // of the group's heads
  Index kv_head = 0;
  const std::int32_t* lists = nullptr;  // [queries, slots] of this head, if the plan is given
  const ListRule* rule = nullptr;       // or what they follow from; without either they are searched for
  std::int32_t* keep = nullptr;         // where lists that are not given go, if wanted
};

struct ForwardOutputs {
  WritableRows o;
  float* lse = nullptr;  // [group, queries] or null
};

struct BackwardJob {
  StoredRows o, dout;
  const float* lse = nullptr;  // [group, queries]
  WritableRows dq;
  float* dk = nullptr;        // [units, 8, padded dim]: sums of ds (scale q); of ds q if the packed head has pairs
  float* dv = nullptr;        // [units, 8, padded dim]; if it has tiles, these are [units / 2, padded dim, 16]
  float* dk_nodes = nullptr;  // [pyramid rows, padded dim]; far field only
  float* dv_nodes = nullptr;
};

// Memory of one task, reused from tile to tile. What its job does not need is null or empty.
struct Scratch {
  Index rows = 0;      // of a tile, a multiple of 4; with tile registers of 32
  Index capacity = 0;  // nodes or tokens that a cell may score at once
  // [rows, padded dim]
  float *q = nullptr, *o = nullptr, *dout = nullptr, *dq = nullptr;
  // [rows, max of depth, padded dim / 2]: q without scale
  float *q_pairs = nullptr, *dout_pairs = nullptr;
  // [rows / 2, padded dim]: pairs of rows; backward only; of tiles [rows / 32, padded dim, 16]
  float *q_row_pairs = nullptr, *dout_row_pairs = nullptr;
  // [rows]
  float *max = nullptr, *far_sum = nullptr, *lse = nullptr, *delta = nullptr;
  // [rows, 8]; the second of weights as Pairs hold them
  float *sums = nullptr, *rounded_sums = nullptr;
  float* tile_sums = nullptr;               // [rows, 16]: rounded_sums in the first column; tiles only
  float* scores = nullptr;                  // [4 group, capacity]
  float* mass = nullptr;                    // [4, capacity]
  float *work = nullptr, *spare = nullptr;  // [capacity], [capacity + 16]
  float* unit_mass = nullptr;               // [capacity / 8]
  std::int8_t* q_int8 = nullptr;            // [rows, padded dim]
  float* q_scales = nullptr;                // [rows]
  std::int32_t* q_sums = nullptr;           // [rows]: -128 times the sum of the row's bytes
  // [capacity]
  std::int32_t *ids = nullptr, *next_ids = nullptr;
  std::uint8_t *may = nullptr, *next_may = nullptr, *chosen = nullptr;
  std::int32_t* lists = nullptr;  // [positions of a tile, slots]
  // [rows], [rows], [rows, padded dim]: what the running softmax begins with; only with a tail
  float *tail_max = nullptr, *tail_sum = nullptr, *tail_o = nullptr;
  std::uint8_t* kept_lanes = nullptr;              // [5, capacity / 8]: of candidates' units; only with a tail
  Entry* cell_entries = nullptr;                   // [capacity / 8]: candidates of a cell; a byte for each position
  std::uint8_t* unit_lanes = nullptr;              // [capacity / 8]: the bytes of one position
  std::vector<std::vector<Entry>> entries;         // [quads]
  std::vector<std::vector<FarEntry>> far_entries;  // [quads], the first far_counts[quad] of each; far field only
  std::vector<Index> far_counts;                   // [quads]
  std::vector<HeldNode> held;                      // merged lists of a quad
  std::vector<std::vector<HeldNode>> gathered;     // [quads]: the same, if blocks are gathered and not entries
  std::vector<Hint> hints;                         // one for each stage of the search

  Scratch(const HeadJob& job, bool backward);

 private:
  void take_rows(Slab::Taker& take, const HeadJob& job, bool backward);
  void take_search(Slab::Taker& take, const HeadJob& job);

  Slab memory_;
};

struct Kernels {
  Index step;  // how they want heads packed: see PackedHead
  bool tiles;
  // Fills lists [count, slots] for queries [first, first + count), at most kTile of them.
  void (*select)(const HeadJob&, Index first, Index count, std::int32_t* lists, Scratch&);
  void (*forward)(const HeadJob&, Index first, Index count, const ForwardOutputs&, Scratch&);
  void (*backward)(const HeadJob&, const BackwardJob&, Index first, Index count, Scratch&);
  // The same for packed heads of pairs; null where the instruction set has no products of them.
  void (*forward_pairs)(const HeadJob&, Index first, Index count, const ForwardOutputs&, Scratch&);
  void (*backward_pairs)(const HeadJob&, const BackwardJob&, Index first, Index count, Scratch&);
};

// Whether tensors of `type` are packed as pairs for these kernels.
bool packs_pairs(Isa isa, DType type);

const Kernels& kernels_for(Isa isa, DType type);

namespace amx {
extern const Kernels kKernels;
}
namespace portable_amx {
extern const Kernels kKernels;
}

namespace avx512 {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace portable {
extern const Kernels kKernels;
}

// Shared by all instruction sets; defined in tile.cc without vector flags.
//
// Copies the queries of a tile into scratch.q, row = (query - first) * group + head, times `factor`; rows up to the
// next multiple of 4 are zero.
void load_tile_rows(const StoredRows& x, Index group, Index first, Index count, float factor, Index padded_dim,
                    float* rows);
// Copies bfloat16 rows of a tile as pairs of dimensions, [rows, padded dim / 2], and, unless null, as pairs of rows,
// [rows / 2, padded dim].
void load_tile_pairs(const StoredRows& x, Index group, Index first, Index count, Index padded_dim, float* pairs,
                     float* row_pairs);
// Rounds the rows of a tile's queries to bytes: scratch.q_int8, q_scales and q_sums.
void round_queries(const float* q, Index rows, Index padded_dim, Scratch& scratch);
// Rounds the keys of a unit as they are attended to bytes [padded dim / 4, 8, 4] and their 8 scales: the bits that
// packing for rescoring gives.
void round_packed_keys(const PackedHead& head, Index unit, std::uint8_t* bytes, float* scales);
// Entries of each quad of the tile, from the lists [count, slots]. With `gather`, blocks of the lists go to
// scratch.gathered instead.
void build_tile_entries(const HeadJob& job, Index first, Index count, const std::int32_t* lists, bool gather,
                        Scratch& scratch);

}  // namespace hsattn::cpu
