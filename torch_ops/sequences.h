// Sequences of a call, as the ops take them: int64 [count, 5].
#pragma once

#include <algorithm>
#include <vector>

#include "hsattn/plan/sequences.h"
#include "torch_ops/options.h"

namespace hsattn::torch_ops {

/// Rows of a tensor of sequences, whose type and shape are checked.
inline Index count_of_sequences(const char* who, const Tensor& given) {
  check_on_cpu(who, "sequences", given);
  check(given.scalar_type() == ScalarType::Long && given.dim() == 2 && given.size(1) == 5, who,
        ": sequences has shape ", shape_of(given), " and type ", torch::headeronly::toString(given.scalar_type()),
        "; it must be [count, 5] and Long (int64)");
  return given.size(0);
}

/// After count_of_sequences().
inline std::vector<Sequence> rows_of_sequences(const Tensor& given) {
  const Tensor rows = torch::stable::contiguous(given);
  const auto* row = static_cast<const Index*>(rows.const_data_ptr());
  std::vector<Sequence> sequences;
  for (Index i = 0; i < rows.size(0); ++i, row += 5) {
    sequences.push_back({row[0], {row[1], row[2]}, {row[3], row[4]}});
  }
  return sequences;
}

/// Checked against each other and the tensors.
inline std::vector<Sequence> sequences_from(const char* who, const Tensor& given, const Tensor& q, const Tensor& k) {
  count_of_sequences(who, given);
  std::vector<Sequence> sequences = rows_of_sequences(given);
  check_sequences(who, sequences, q.size(0), q.size(2), k.size(2));
  tokens_of_none(who, "queries", sequences, &Sequence::queries, q.size(0), q.size(2));  // each in one at most
  return sequences;
}

/// The sequences of a call and the rules of their plans, whose lists lie one after another in a flat tensor.
struct SequencePlans {
  std::vector<Sequence> sequences;
  std::vector<PlanShape> shapes;

  SequencePlans(const char* who, const Tensor& given, const PlanOptions& options, const Tensor& q, const Tensor& k)
      : sequences(sequences_from(who, given, q, k)),
        shapes(plan_shapes(options, dtype_of(who, "q", q), k.size(1), sequences)) {}

  /// Room for any sequences of the whole call, filled with -1: its size must not depend on what `sequences` holds.
  static Tensor new_lists(const Tensor& like, const PlanShape& whole) {
    const Tensor lists = new_tensor(like, {whole.list_elements()}, ScalarType::Int);
    std::fill_n(ids(lists), lists.numel(), -1);
    return lists;
  }

  std::vector<PlanView> views(const char* who, const Tensor& lists) const {
    check_on_cpu(who, "plan", lists);
    const bool fits = lists.scalar_type() == ScalarType::Int && lists.dim() == 1 && lists.is_contiguous();
    check(fits && lists.numel() >= list_elements(shapes), who, ": the plan's lists have shape ", shape_of(lists),
          " and type ", torch::headeronly::toString(lists.scalar_type()), "; with sequences they must be [ids], Int (",
          "int32), contiguous, with at least ", list_elements(shapes), " ids");
    return plans_of(shapes, list_elements(shapes) == 0 ? nullptr : const_ids(lists));
  }
};

}  // namespace hsattn::torch_ops
