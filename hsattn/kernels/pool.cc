#include "hsattn/kernels/pool.h"

#include <algorithm>

#include "hsattn/base/buffer.h"
#include "hsattn/base/error.h"
#include "hsattn/base/math.h"

namespace hsattn {
namespace {

// Mean of the rows [begin, end), added up in their order.
void block_mean(const Rows<const float>& x, Index begin, Index end, Index stride, float* out) {
  std::fill_n(out, stride, 0.0F);
  for (Index t = begin; t < end; ++t)
    for (Index d = 0; d < x.dim; ++d) out[d] += x.row(t)[d];
  const float factor = 1.0F / static_cast<float>(end - begin);
  for (Index d = 0; d < x.dim; ++d) out[d] *= factor;
}

void parent_mean(const float* left, const float* right, Index left_tokens, Index right_tokens, Index stride,
                 float* out) {
  const float total = static_cast<float>(left_tokens + right_tokens);
  const float a = static_cast<float>(left_tokens) / total, b = static_cast<float>(right_tokens) / total;
  for (Index d = 0; d < stride; ++d) out[d] = a * left[d] + b * right[d];
}

// The larger one; NaN if one is.
float larger(float a, float b) { return b > a || b != b ? b : a; }

void block_max(const Rows<const float>& x, Index begin, Index end, Index stride, float* out) {
  std::fill_n(out, stride, 0.0F);
  std::copy_n(x.row(begin), x.dim, out);
  for (Index t = begin + 1; t < end; ++t)
    for (Index d = 0; d < x.dim; ++d) out[d] = larger(out[d], x.row(t)[d]);
}

void parent_max(const float* left, const float* right, Index stride, float* out) {
  for (Index d = 0; d < stride; ++d) out[d] = larger(left[d], right[d]);
}

}  // namespace

int pyramid_levels(Index blocks) {
  int levels = 1;
  while ((Index{1} << (levels - 1)) < blocks) ++levels;
  return levels;
}

Index pyramid_nodes(Index blocks) {
  Index nodes = 0;
  for (int level = 0; level < pyramid_levels(blocks); ++level) nodes += ceil_div(blocks, Index{1} << level);
  return nodes;
}

SequenceNodes nodes_of_sequences(const char* who, const char* name, std::span<const Sequence> sequences, Index block,
                                 Index batch, Index nodes) {
  auto ends = allocate_vector<Index>(batch, "nodes of sequences");
  SequenceNodes found;
  for (const Sequence& s : sequences) {
    Index& end = ends[static_cast<std::size_t>(s.batch)];
    const Index begin = end;
    end += pyramid_nodes(ceil_div(s.keys.size(), block));
    found.ranges.push_back({begin, end});
  }
  for (Index b = 0; b < batch; ++b) {
    const Index end = ends[static_cast<std::size_t>(b)];
    check(nodes >= end, who, ": ", name, " has ", nodes, " nodes; the sequences of batch element ", b, " have ", end);
    if (nodes > end) found.none.push_back({b, {end, nodes}});
  }
  return found;
}

void pool_rows(Pooling pooling, const Rows<const float>& x, Index begin, Index end, Index stride, float* out) {
  const auto pool_block = pooling == Pooling::kMax ? block_max : block_mean;
  pool_block(x, begin, end, stride, out);
}

void pool_pair(Pooling pooling, const float* left, const float* right, Index left_tokens, Index right_tokens,
               Index stride, float* out) {
  if (pooling == Pooling::kMax) return parent_max(left, right, stride, out);
  parent_mean(left, right, left_tokens, right_tokens, stride, out);
}

void pool(Pooling pooling, const Rows<const float>& x, Index block, Index stride, float* out) {
  Index below = ceil_div(x.count, block);
  for (Index b = 0; b < below; ++b) {
    pool_rows(pooling, x, b * block, std::min(x.count, (b + 1) * block), stride, out + b * stride);
  }
  const float* children = out;
  float* parents = out + below * stride;
  for (Index size = block; below > 1; size *= 2) {
    const Index nodes = ceil_div(below, Index{2});
    for (Index i = 0; i < nodes; ++i, parents += stride) {
      const float* left = children + 2 * i * stride;
      const Index right_begin = (2 * i + 1) * size;
      if (right_begin < x.count) {
        pool_pair(pooling, left, left + stride, size, std::min(size, x.count - right_begin), stride, parents);
      } else {
        std::copy_n(left, stride, parents);
      }
    }
    children += below * stride;
    below = nodes;
  }
}

}  // namespace hsattn
