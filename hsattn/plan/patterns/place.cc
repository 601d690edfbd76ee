#include "hsattn/plan/patterns/place.h"

#include <algorithm>

#include "hsattn/base/math.h"

namespace hsattn {
namespace {

Index remainder(Index a, Index b) { return a - floor_div(a, b) * b; }

}  // namespace

Place place_of(const PlanShape& shape, Index kv_head, Index position) {
  const auto without_sinks = [&](Range blocks) {
    return Range{std::max(blocks.begin, shape.sinks), std::max(blocks.end, shape.sinks)};
  };
  return {.kv_head = kv_head,
          .bidirectional = !shape.causal,
          .block = shape.block,
          .own = floor_div(position, shape.block),
          .first_near = floor_div(position - shape.window, shape.block),
          .last_near = floor_div(position + shape.window, shape.block),
          .left = without_sinks(shape.left(position)),
          .right = without_sinks(shape.right(position))};
}

bool Columns::contains(Index block) const { return remainder(block - residue, stride) == 0; }

void add_nearest(const Place& place, const Columns& columns, const Columns* skipped, Index most, Blocks& out) {
  const Range left = place.left, right = place.right;
  Index before = left.end - 1 - remainder(left.end - 1 - columns.residue, columns.stride);
  Index after = right.begin + remainder(columns.residue - right.begin, columns.stride);
  while (static_cast<Index>(out.size()) < most && (before >= left.begin || after < right.end)) {
    const bool only_left = after >= right.end, only_right = before < left.begin;
    const bool go_left = only_left || (!only_right && place.first_near - before <= after - place.last_near);
    const Index block = go_left ? before : after;
    (go_left ? before : after) += go_left ? -columns.stride : columns.stride;
    if (skipped == nullptr || !skipped->contains(block)) out.push_back(static_cast<std::int32_t>(block));
  }
}

}  // namespace hsattn
