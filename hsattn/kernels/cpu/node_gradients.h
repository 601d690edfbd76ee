// The backward pass of pooling.
#pragma once

#include "hsattn/kernels/cpu/layout.h"
#include "hsattn/kernels/cpu/rows.h"

namespace hsattn::cpu {

// Adds the gradients of nodes [pyramid rows, padded dim] to those of their tokens [tokens, padded dim]: each node
// passes its gradient down to its children, then blocks to tokens. A mean gives each child its share. Overwrites the
// nodes. O(keys).
void spread_mean_gradients(const PackedHead& head, Index block, float* nodes, float* tokens);

// The same for maxima, from the nodes and tokens that were pooled: element by element, the first child that equals the
// maximum gets the gradient.
struct PooledRows {
  const float* nodes;  // [pyramid rows, padded dim]
  StoredRows tokens;
};
void spread_max_gradients(const PackedHead& head, Index block, const PooledRows& pooled, float* nodes, float* tokens);

}  // namespace hsattn::cpu
