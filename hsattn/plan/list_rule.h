// Lists of patterns that read no keys: a pure function of options, position and kv head.
#pragma once

#include <cstdint>

#include "hsattn/plan/plan.h"

namespace hsattn {

/// True if the pattern's lists follow from the position alone; false if it has none or searches for them.
bool lists_by_rule(Pattern pattern);

/// What such a pattern lists. Any cut of the queries and any order of calls gives the same lists.
class ListRule {
 public:
  ListRule(const PlanShape& shape, const PlanOptions& options) : shape_(shape), options_(options) {}

  /// The lists of queries [first, first + count) into `lists` [count, slots]: ascending, then -1.
  void write(Index kv_head, Index first, Index count, std::int32_t* lists) const;

 private:
  PlanShape shape_;
  PlanOptions options_;
};

}  // namespace hsattn
