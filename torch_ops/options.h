// Pattern and budgets of a call, as the ops take them, to options and rules.
#pragma once

#include <string>
#include <vector>

#include "hsattn/plan/budgets.h"
#include "hsattn/plan/plan.h"
#include "torch_ops/tensors.h"

namespace hsattn::torch_ops {

using Budgets = std::vector<Index>;  ///< as hsattn/plan/budgets.h has them

inline PlanOptions options_from(const std::string& pattern, bool causal, const Budgets& budgets) {
  const PlanOptions options{
      .pattern = pattern_from_name(pattern), .causal = causal, .hsa = options_of_budgets(budgets)};
  check_options(options);
  return options;
}

/// The shape of the tensor of a plan's lists.
inline std::vector<Index> shape_of_lists(const PlanShape& s) { return {s.batch, s.kv_heads, s.queries, s.slots()}; }

/// A plan whose lists lie in `lists`, contiguous; checks type and size, not the ids.
inline PlanView plan_view(const char* who, const PlanShape& shape, const Tensor& lists) {
  check_on_cpu(who, "plan", lists);
  check(lists.scalar_type() == ScalarType::Int, who, ": the plan's lists have type ",
        torch::headeronly::toString(lists.scalar_type()), "; they must be Int (int32)");
  if (shape.slots() == 0) {
    check(lists.numel() == 0, who, ": the plan's lists have shape ", shape_of(lists),
          "; this pattern selects nothing, they must be empty");
    return {shape, nullptr};
  }
  const auto right = shape_of_lists(shape);
  const bool fits = lists.dim() == 4 && lists.size(0) == right[0] && lists.size(1) == right[1] &&
                    lists.size(2) == right[2] && lists.size(3) == right[3];
  check(fits, who, ": the plan's lists have shape ", shape_of(lists), "; for these tensors and options it must be [",
        right[0], ", ", right[1], ", ", right[2], ", ", right[3], "]");
  check(lists.is_contiguous(), who, ": the plan's lists must be contiguous");
  return {shape, const_ids(lists)};
}

}  // namespace hsattn::torch_ops
