// Packing of one key/value head for the CPU kernels.
#pragma once

#include "hsattn/kernels/cpu/layout.h"
#include "hsattn/kernels/cpu/rows.h"

namespace hsattn::cpu {

struct PackRequest {
  bool values = false;     // keys and values as they are attended (forward, backward)
  bool backward = false;   // also transposed values and key rows
  bool search = false;     // key pyramid, rounded to bytes
  bool rescore = false;    // keys rounded to bytes
  bool far_field = false;  // key and value pyramid rows
  bool tail = false;       // mean values of the smallest nodes, or of their parts
  bool pairs = false;      // keys and values as pairs of bfloat16; the tensors are bfloat16
  bool tiles = false;      // see PackedHead
  Index step = 1;          // see PackedHead
  Index block = 8;         // tokens of the smallest nodes
  Index parts = 1;         // of each of these: rounded keys of parts as well, if more than 1
  Pooling pooling = Pooling::kMean;

  Index part() const { return block / parts; }  // tokens
};

// The shape of a head packed so: everything but tables.
PackedHead shape_packed_head(Index keys, Index dim, const PackRequest& request);

// A head and the memory of its tables, each one run; reused for one head after another.
struct OwnedHead {
  PackedHead head;
  Slab memory;
};
OwnedHead allocate_packed_head(Index keys, Index dim, const PackRequest& request);

// Packs what units [begin, end) hold of the tokens from `first_token` on, whose keys and values are the rows of k and
// v: independent of other units, so that threads can share the work. The lanes of a unit before first_token stay.
void pack_units(const StoredRows& k, const StoredRows& v, const PackRequest& request, Index begin, Index end,
                PackedHead& head, Index first_token = 0);

// Rounds `count` rows of floats to lanes from `lane` on of a unit of bytes [padded dim / 4, 8, 4] and scales [8]. Lane
// 0 begins it: what no lane holds yet is zeros.
void round_lanes(const Rows<const float>& rows, Index lane, Index padded_dim, std::uint8_t* bytes, float* scales);

// Rounds the pooled key of a part of the smallest nodes to its lane in the pyramid.
void round_part(const float* key, Index part, const PackedHead& head);

bool all_finite(const Rows<const float>& rows);

// A token's key or value as it is packed, in float32.
void read_packed_key(const PackedHead& head, Index token, float* to);
void read_packed_value(const PackedHead& head, Index token, float* to);

// Nodes of one head that the caller pooled, in the order of the pyramid's rows; no data if it did not.
struct GivenNodes {
  Rows<const float> keys, values;
};

// Pools keys (and values) into the pyramid, or copies what is given; after all units are packed.
void build_pyramid(const StoredRows& k, const StoredRows& v, const GivenNodes& given, const PackRequest& request,
                   PackedHead& head);

// Whether all keys and values of nodes are finite, if the far field or a tail attends them: given ones may not be, and
// the sum of finite tokens may overflow.
bool far_nodes_finite(const PackRequest& request, const PackedHead& head);

// Tokens behind a node of the pyramid.
Index node_tokens(const PackedHead& head, Index block, Index level, Index index);

}  // namespace hsattn::cpu
