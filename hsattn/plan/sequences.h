// Several sequences that share tensors: packed one after another, or one in each padded row of a batch.
#pragma once

#include <span>
#include <vector>

#include "hsattn/plan/plan.h"

namespace hsattn {

/// Tokens of one batch element that are attended as if they were alone: blocks and nodes start at the first key, and
/// the mask is aligned at the last one.
struct Sequence {
  Index batch = 0;
  Range queries;  ///< of q and o
  Range keys;     ///< of k and v

  bool operator==(const Sequence&) const = default;
};

/// Sequences packed one after another into batch element 0: sequence i has the queries [first_queries[i],
/// first_queries[i + 1]), and keys likewise. Both lists start with 0 and end with the end of the last sequence; tokens
/// after it are padding. Throws InvalidArgument if an offset is below the one before, or the lists differ in length.
std::vector<Sequence> packed_sequences(std::span<const Index> first_queries, std::span<const Index> first_keys);

/// One sequence in each element of a padded batch: `real[b]` are the keys of element b that are no padding, left or
/// right of it. As everywhere, the `queries` tokens are the last ones of the `keys`; those that are padding as keys are
/// padding as queries.
std::vector<Sequence> padded_sequences(std::span<const Range> real, Index queries, Index keys);

/// The rules of each sequence's plan.
std::vector<PlanShape> plan_shapes(const PlanOptions& options, DType type, Index kv_heads,
                                   std::span<const Sequence> sequences);

/// Ids in the lists of all plans.
Index list_elements(std::span<const PlanShape> shapes);

/// Plans whose lists lie in `blocks` one after another, as forward keeps them.
std::vector<PlanView> plans_of(std::span<const PlanShape> shapes, const std::int32_t* blocks);

/// Throws InvalidArgument unless every sequence lies within `batch` elements of `queries` and `keys` tokens.
void check_sequences(const char* who, std::span<const Sequence> sequences, Index batch, Index queries, Index keys);

/// The same of their keys alone.
void check_keys_of_sequences(const char* who, std::span<const Sequence> sequences, Index batch, Index keys);

/// A run of tokens of one batch element.
struct BatchRange {
  Index batch = 0;
  Range tokens;
};

/// The tokens that belong to no sequence, of `batch` elements with `tokens` tokens each; `side` is &Sequence::queries
/// or &Sequence::keys. Throws InvalidArgument if two sequences share one; `name` names the tokens in the error.
std::vector<BatchRange> tokens_of_none(const char* who, const char* name, std::span<const Sequence> sequences,
                                       Range Sequence::* side, Index batch, Index tokens);

}  // namespace hsattn
