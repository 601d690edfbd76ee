// The growing pyramid: nodes of complete blocks and of complete pairs of nodes, with the numbers that pool() gives.
#include <algorithm>

#include "hsattn/base/math.h"
#include "hsattn/cache/tables.h"
#include "hsattn/kernels/pool.h"

namespace hsattn {
namespace {

using cpu::kMaxDim;
using cpu::kUnit;

// Pools nodes of one head.
class NodeMaker {
 public:
  NodeMaker(const CacheTables& tables, const cpu::PackedHead& head) : tables_(tables), head_(head) {
    std::fill(std::begin(newest_), std::end(newest_), -1);
  }

  // What the far field attends of the nodes made so far.
  bool all_finite() const { return finite_; }

  // Makes the node of a block, and those above it that it completes.
  void make(Index block) {
    pool_block(block, rows_[0]);
    if (far_field()) pool_tokens(tables_.block(), block, pooling(), cpu::read_packed_value, value_);
    store(0, block);
    for (Index part = 0; part < parts(); ++part) make_part(block * parts() + part);
    for (Index level = 1, index = block; index % 2 == 1; ++level) {
      index /= 2;
      float node[kMaxDim];
      pool_children(level, index, rows_[level - 1], node);
      std::copy_n(node, padded(), rows_[level]);
      if (far_field()) pool_values_of_children(level, index);
      store(level, index);
    }
  }

 private:
  static constexpr int kMost = cpu::PackedPyramid::kMaxLevels;

  Index padded() const { return head_.padded_dim; }
  bool far_field() const { return tables_.request().far_field; }
  Pooling pooling() const { return tables_.request().pooling; }

  Index parts() const { return tables_.request().parts; }

  // The index-th run of `size` tokens.
  template <class Read>
  void pool_tokens(Index size, Index index, Pooling pooling, const Read& read, float* out) {
    float tokens[cpu::kPanel * kMaxDim];
    for (Index j = 0; j < size; ++j) read(head_, index * size + j, tokens + j * head_.dim);
    pool_rows(pooling, {tokens, size, head_.dim, head_.dim}, 0, size, padded(), out);
  }
  void pool_block(Index block, float* out) {
    pool_tokens(tables_.block(), block, pooling(), cpu::read_packed_key, out);
  }

  // What a tail attends, and what is scored besides whole nodes.
  void make_part(Index part) {
    const Index size = tables_.request().part();
    if (tables_.has_parts()) {
      float key[kMaxDim];
      pool_tokens(size, part, pooling(), cpu::read_packed_key, key);
      cpu::round_part(key, part, head_);
    }
    if (!tables_.request().tail) return;
    float* value = cpu::tail_values(head_.pyramid, parts())[part];
    pool_tokens(size, part, Pooling::kMean, cpu::read_packed_value, value);
    finite_ &= cpu::all_finite({value, 1, padded(), padded()});
  }

  // The key of a complete node: kept, just made, or pooled again from its tokens.
  void find(Index level, Index index, float* out) {
    if (level >= tables_.first_kept_level()) {
      std::copy_n(head_.pyramid.level[level].keys[index], padded(), out);
    } else if (newest_[level] == index) {
      std::copy_n(rows_[level], padded(), out);
    } else if (level == 0) {
      pool_block(index, out);
    } else {
      float right[kMaxDim];
      find(level - 1, 2 * index + 1, right);
      pool_children(level, index, right, out);
    }
  }
  void pool_children(Index level, Index index, const float* right, float* out) {
    float left[kMaxDim];
    find(level - 1, 2 * index, left);
    const Index tokens = tables_.block() << (level - 1);
    pool_pair(pooling(), left, right, tokens, tokens, padded(), out);
  }
  void pool_values_of_children(Index level, Index index) {
    const cpu::Units<float>& below = head_.pyramid.level[level - 1].values;
    const Index tokens = tables_.block() << (level - 1);
    pool_pair(pooling(), below[2 * index], below[2 * index + 1], tokens, tokens, padded(), value_);
  }

  void store(Index level, Index index) {
    const cpu::PackedLevel& to = head_.pyramid.level[level];
    const Index unit = index / kUnit;
    if (!to.keys_int8.empty()) {
      cpu::round_lanes({rows_[level], 1, head_.dim, padded()}, index % kUnit, padded(), to.keys_int8[unit],
                       to.key_scales[unit]);
    }
    if (!to.keys.empty()) std::copy_n(rows_[level], padded(), to.keys[index]);
    if (far_field()) {
      std::copy_n(value_, padded(), to.values[index]);
      for (const float* row : {rows_[level], value_}) finite_ &= cpu::all_finite({row, 1, padded(), padded()});
    }
    newest_[level] = index;
  }

  const CacheTables& tables_;
  const cpu::PackedHead& head_;
  float rows_[kMost][kMaxDim];  // the newest node of each level
  Index newest_[kMost];         // its index; -1: none made yet
  float value_[kMaxDim];
  bool finite_ = true;
};

}  // namespace

bool make_nodes(const CacheTables& tables, const cpu::PackedHead& head, Index first) {
  if (!tables.has_nodes()) return true;
  const Index block = tables.block(), end = head.keys / block;
  Index begin = first / block;
  if (begin == end) return true;
  NodeMaker maker(tables, head);
  for (; begin < end; ++begin) maker.make(begin);
  return maker.all_finite();
}

}  // namespace hsattn
