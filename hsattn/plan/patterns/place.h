// Where a position stands among the blocks: all that a pattern without a search looks at.
#pragma once

#include <cstdint>
#include <vector>

#include "hsattn/plan/plan.h"

namespace hsattn {

using Blocks = std::vector<std::int32_t>;

// Blocks around one position. The sinks, which are attended anyway, are taken out of `left` and `right`.
struct Place {
  Index kv_head = 0;
  bool bidirectional = false;
  Index block = 1;                      // tokens per block
  Index own = 0;                        // block of the position
  Index first_near = 0, last_near = 0;  // blocks of its near window, as if the sequence had no ends
  Range left, right;                    // its past; `right` is empty if causal

  Index past() const { return left.size() + right.size(); }
  bool operator==(const Place&) const = default;
};

Place place_of(const PlanShape& shape, Index kv_head, Index position);

// Every `stride`-th block: those whose index leaves the remainder `residue`.
struct Columns {
  Index stride = 1, residue = 0;

  bool contains(Index block) const;
};

// Appends columns of the place's past until `out` holds `most` blocks, the nearest to the near window first, of two
// equally near ones the left; blocks of `skipped` are left out.
void add_nearest(const Place& place, const Columns& columns, const Columns* skipped, Index most, Blocks& out);

}  // namespace hsattn
