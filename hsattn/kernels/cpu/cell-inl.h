// A cell: up to 4 positions that search together, and the items that they may choose from.
#pragma once

#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/micro-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

struct Cell {
  const HeadJob& job;
  Scratch& s;
  const float* q;                             // [4 group, padded dim]; row = position * group + head
  Index positions = 0;                        // of the cell
  Range left[kQuad] = {}, right[kQuad] = {};  // nodes
  Range near[kQuad] = {};
  unsigned active = 0;    // positions that search in this pass, one bit each
  Index count = 0;        // items in ids, a multiple of 16; padding may be chosen by nobody
  Index right_begin = 0;  // first item of the right range

  const PackedPyramid& pyramid() const { return job.packed->pyramid; }
  Index nodes(Index level) const { return pyramid().first[level + 1] - pyramid().first[level]; }
  Index rows() const { return (positions * job.group + kQuad - 1) / kQuad * kQuad; }
};

// Units of a candidate; one that is smaller than a unit has some lanes of one.
static Index units_of_node(const Cell& c) { return max_of<Index>(1, c.job.shape.node / kUnit); }

static Index ceil_shift(Index x, Index level) { return (x + (Index{1} << level) - 1) >> level; }

static void push(Cell& c, std::int32_t* ids, std::uint8_t* may, Index id, unsigned mask) {
  ids[c.count] = static_cast<std::int32_t>(id);
  may[c.count++] = static_cast<std::uint8_t>(mask);
}

static void pad_items(Cell& c, std::int32_t* ids, std::uint8_t* may, Index multiple) {
  while (c.count % multiple != 0) push(c, ids, may, 0, 0);
}

// Items without the padding at their end.
static Index items(const Cell& c) {
  Index count = c.count;
  while (count > 0 && c.s.may[count - 1] == 0) --count;
  return count;
}

// Largest number of items that one position may choose.
static Index most_allowed(const Cell& c) {
  Index allowed[kQuad] = {};
  const std::uint8_t* may = c.s.may;
  for (Index i = 0; i < c.count; i += 8) {
    std::uint64_t word;
    __builtin_memcpy(&word, may + i, sizeof word);
    for (Index p = 0; p < kQuad; ++p) allowed[p] += __builtin_popcountll(word >> p & 0x0101010101010101ULL);
  }
  return max_of(max_of(allowed[0], allowed[1]), max_of(allowed[2], allowed[3]));
}

// Nobody may choose items outside [begin, end).
static void forbid_items(const std::int32_t* __restrict ids, std::uint8_t* __restrict may, Index count, Index begin,
                         Index end) {
  const auto first = static_cast<std::int32_t>(begin), last = static_cast<std::int32_t>(end);
  for (Index i = 0; i < count; ++i) {
    const bool inside = (ids[i] >= first) & (ids[i] < last);
    may[i] = static_cast<std::uint8_t>(inside ? may[i] : 0);
  }
}

static void choose_all(Cell& c) { __builtin_memcpy(c.s.chosen, c.s.may, static_cast<std::size_t>(c.count)); }

// Keeps only the chosen items. Without branches: which are chosen cannot be guessed.
static void narrow_to_chosen(Cell& c) {
  const Index old_count = c.count;
  std::int32_t* ids = c.s.ids;
  std::uint8_t* may = c.s.may;
  const std::uint8_t* chosen = c.s.chosen;
  Index count = 0;
  for (Index i = 0; i < old_count; ++i) {
    ids[count] = ids[i];
    may[count] = chosen[i];
    count += chosen[i] != 0 ? 1 : 0;
  }
  c.count = count;
  pad_items(c, ids, may, kDimAlign);
}

// mass[i] becomes (or grows by) factor times the sum of `size` neighbouring weights.
HSATTN_INLINE void add_sums(Index size, const float* weights, Index count, float factor, bool first, float* mass) {
  for (Index i = 0; i < count; ++i) {
    float sum = weights[i * size];
    for (Index j = 1; j < size; ++j) sum += weights[i * size + j];
    mass[i] = first ? sum * factor : mass[i] + sum * factor;
  }
}

// Sizes below a unit are written out, so that blocks side by side are added up at once.
static void add_block_masses(Index block, const float* weights, Index count, float factor, bool first, float* mass) {
  if (block == 1) return add_sums(1, weights, count, factor, first, mass);
  if (block == 2) return add_sums(2, weights, count, factor, first, mass);
  if (block == 4) return add_sums(4, weights, count, factor, first, mass);
  add_sums(block, weights, count, factor, first, mass);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
