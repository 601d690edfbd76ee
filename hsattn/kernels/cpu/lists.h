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

// Entries of a quad by ascending unit, each unit once: the one order in which every row meets its own.
void build_entries(const PlanShape& shape, std::span<const QuadPosition> positions, std::vector<Entry>& entries);

// The far nodes of a quad, ordered by first block, then level.
struct FarScratch {
  std::vector<FarNode> nodes;
  std::vector<FarEntry> own, merged;
};
void build_far_entries(const PlanShape& shape, std::span<const QuadPosition> positions, const PackedPyramid& pyramid,
                       FarScratch& scratch, std::vector<FarEntry>& entries);

}  // namespace hsattn::cpu
