// From a plan's lists to the entries that a quad of rows walks.
#pragma once

#include <span>
#include <vector>

#include "hsattn/kernels/cpu/layout.h"

namespace hsattn::cpu {

// One position among the rows of a quad.
struct QuadPosition {
  Index position = 0;
  std::uint32_t rows = 0;              // byte r is 0xff if row r belongs to the position
  std::span<const std::int32_t> list;  // its blocks, ascending, without padding
};

// A block or node, and the rows that keep a block in it.
struct HeldNode {
  std::int32_t index;
  std::uint32_t rows;
};

// The lists of a quad's positions as one, ascending, each block once.
void merge_lists(std::span<const QuadPosition> positions, std::vector<HeldNode>& kept);

// Entries of a quad by ascending unit, each unit once: the one order in which every row meets its own.
void build_entries(const PlanShape& shape, std::span<const QuadPosition> positions, std::span<const HeldNode> kept,
                   std::vector<Entry>& entries);

// The far nodes of a quad by level, then index: the one order in which every row meets its own. `held` is the merged
// list; it is used up. Returns how many: `entries` only grows.
Index build_far_entries(const PlanShape& shape, std::span<const QuadPosition> positions, const PackedPyramid& pyramid,
                        std::vector<HeldNode>& held, std::vector<FarEntry>& entries);

}  // namespace hsattn::cpu
