// The backward pass of mean pooling.
#pragma once

#include "hsattn/kernels/cpu/layout.h"

namespace hsattn::cpu {

// Adds the gradients of nodes [pyramid rows, padded dim] to those of their tokens [tokens, padded dim]: each node
// passes its share down to its children, then blocks to tokens. Overwrites the nodes. O(keys).
void spread_node_gradients(const PackedHead& head, Index block, float* nodes, float* tokens);

}  // namespace hsattn::cpu
