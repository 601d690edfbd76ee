#include "hsattn/kernels/cpu/node_gradients.h"

#include <algorithm>
#include <cmath>

#include "hsattn/kernels/cpu/pack.h"

namespace hsattn::cpu {
namespace {

void add_scaled(const float* from, float factor, Index count, float* to) {
  for (Index d = 0; d < count; ++d) to[d] += factor * from[d];
}

// Adds to a child the elements of its node's gradient that it won, and takes them from the node: those behind it get
// none. A NaN wins, as it did when the maximum was taken.
void add_what_won(const float* node, const float* child, Index count, float* node_gradient, float* to) {
  for (Index d = 0; d < count; ++d) {
    const bool won = child[d] == node[d] || std::isnan(child[d]);
    to[d] += won ? node_gradient[d] : 0.0F;
    node_gradient[d] = won ? 0.0F : node_gradient[d];
  }
}

}  // namespace

void spread_mean_gradients(const PackedHead& head, Index block, float* nodes, float* tokens) {
  const PackedPyramid& p = head.pyramid;
  const Index padded = head.padded_dim;
  for (Index level = p.levels - 1; level > 0; --level) {
    const Index children = p.first[level] - p.first[level - 1];
    for (Index i = 0; i < p.first[level + 1] - p.first[level]; ++i) {
      const auto total = static_cast<float>(node_tokens(head, block, level, i));
      for (Index child = 2 * i; child < std::min(2 * i + 2, children); ++child) {
        const float share = static_cast<float>(node_tokens(head, block, level - 1, child)) / total;
        add_scaled(nodes + (p.first[level] + i) * padded, share, padded, nodes + (p.first[level - 1] + child) * padded);
      }
    }
  }
  for (Index b = 0; b < p.first[1]; ++b) {
    const Index begin = b * block, end = std::min(head.keys, begin + block);
    for (Index t = begin; t < end; ++t) {
      add_scaled(nodes + b * padded, 1.0F / static_cast<float>(end - begin), padded, tokens + t * padded);
    }
  }
}

void spread_max_gradients(const PackedHead& head, Index block, const PooledRows& pooled, float* nodes, float* tokens) {
  const PackedPyramid& p = head.pyramid;
  const Index padded = head.padded_dim;
  for (Index level = p.levels - 1; level > 0; --level) {
    for (Index child = p.first[level - 1]; child < p.first[level]; ++child) {
      const Index node = p.first[level] + (child - p.first[level - 1]) / 2;
      add_what_won(pooled.nodes + node * padded, pooled.nodes + child * padded, padded, nodes + node * padded,
                   nodes + child * padded);
    }
  }
  float token[kMaxDim];
  for (Index t = 0; t < head.keys; ++t) {
    const Index node = t / block;
    read_row(pooled.tokens.dtype, pooled.tokens.row(t), head.dim, 1, token);
    add_what_won(pooled.nodes + node * padded, token, head.dim, nodes + node * padded, tokens + t * padded);
  }
}

}  // namespace hsattn::cpu
