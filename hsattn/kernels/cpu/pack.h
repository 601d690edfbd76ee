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
  bool pairs = false;      // keys and values as pairs of bfloat16; the tensors are bfloat16
  bool tiles = false;      // see PackedHead
  Index step = 1;          // see PackedHead
  Index block = 8;
  Pooling pooling = Pooling::kMean;
};

// Memory for one head; reused for one head after another.
PackedHead allocate_packed_head(Index keys, Index dim, const PackRequest& request);

// Packs units [begin, end) of the head: independent of other units, so that threads can share the work.
void pack_units(const StoredRows& k, const StoredRows& v, const PackRequest& request, Index begin, Index end,
                PackedHead& head);

// Nodes of one head that the caller pooled, in the order of the pyramid's rows; no data if it did not.
struct GivenNodes {
  Rows<const float> keys, values;
};

// Pools keys (and values) into the pyramid, or copies what is given; after all units are packed.
void build_pyramid(const StoredRows& k, const StoredRows& v, const GivenNodes& given, const PackRequest& request,
                   PackedHead& head);

// Tokens behind a node of the pyramid.
Index node_tokens(const PackedHead& head, Index block, Index level, Index index);

}  // namespace hsattn::cpu
