// Pooling of rows into the pyramid, in float32. Shared by the CPU kernels and the reference's search, so that both
// choose from the same numbers.
#pragma once

#include <span>
#include <vector>

#include "hsattn/base/view.h"
#include "hsattn/plan/options.h"
#include "hsattn/plan/sequences.h"

namespace hsattn {

/// Levels of the binary tree over `blocks` blocks: the last has one node.
int pyramid_levels(Index blocks);

/// Nodes of all its levels, blocks included.
Index pyramid_nodes(Index blocks);

/// Where the nodes of several sequences lie: those of a batch element one sequence after another, in their order.
struct SequenceNodes {
  std::vector<Range> ranges;     ///< of each sequence
  std::vector<BatchRange> none;  ///< nodes behind the last
};

/// Throws InvalidArgument if `nodes`, the number that each of `batch` elements of `name` has, is too small.
SequenceNodes nodes_of_sequences(const char* who, const char* name, std::span<const Sequence> sequences, Index block,
                                 Index batch, Index nodes);

/// The mean or maximum of rows [begin, end) of x, in their order: [stride] with zeros behind dim.
void pool_rows(Pooling pooling, const Rows<const float>& x, Index begin, Index end, Index stride, float* out);

// The mean or maximum of two nodes with so many tokens behind them.
void pool_pair(Pooling pooling, const float* left, const float* right, Index left_tokens, Index right_tokens,
               Index stride, float* out);

/// Means or maxima of blocks of `block` rows of x (the last may be ragged), then of pairs of nodes (means weighted by
/// the tokens behind them), level after level: `out` is [nodes of all levels, stride] with zeros behind dim. A NaN in a
/// row is one in every node above it.
void pool(Pooling pooling, const Rows<const float>& x, Index block, Index stride, float* out);

}  // namespace hsattn
