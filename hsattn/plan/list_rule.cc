#include "hsattn/plan/list_rule.h"

#include <algorithm>

#include "hsattn/plan/patterns/patterns.h"

namespace hsattn {
namespace {

// Sinks of the past and what the rule lists, ascending.
void find_list(const PlanShape& shape, Index position, const Place& place, Rule rule, const HsaOptions& options,
               Blocks& list, Blocks& by_rule) {
  list.clear();
  by_rule.clear();
  const Range left = shape.left(position), right = shape.right(position);
  for (Index b = 0; b < std::min(shape.sinks, shape.blocks()); ++b) {
    if (left.contains(b) || right.contains(b)) list.push_back(static_cast<std::int32_t>(b));
  }
  rule(place, options, shape.kept, by_rule);
  std::sort(by_rule.begin(), by_rule.end());
  list.insert(list.end(), by_rule.begin(), by_rule.end());
}

}  // namespace

bool lists_by_rule(Pattern pattern) { return entry_of(pattern).rule != nullptr; }

void ListRule::write(Index kv_head, Index first, Index count, std::int32_t* lists) const {
  const Rule rule = entry_of(options_.pattern).rule;
  const Index slots = shape_.slots();
  Blocks list, by_rule;
  Place before;
  for (Index i = 0; i < count; ++i) {
    const Index position = shape_.position(first + i);
    const Place place = place_of(shape_, kv_head, position);
    // Neighbours mostly stand at the same place.
    if (i == 0 || place != before) find_list(shape_, position, place, rule, options_.hsa, list, by_rule);
    before = place;
    std::int32_t* to = lists + i * slots;
    std::fill(std::copy(list.begin(), list.end(), to), to + slots, -1);
  }
}

}  // namespace hsattn
