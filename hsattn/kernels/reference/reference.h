// The reference: selection, forward and backward in plain loops that read like docs/design.md. Inputs are float32 or
// float64, all arithmetic is in double. Every other kernel is compared with it; float64 tensors run on it.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "hsattn/attention/attention.h"
#include "hsattn/base/executor.h"
#include "hsattn/base/view.h"
#include "hsattn/kernels/reference/pyramid.h"
#include "hsattn/plan/plan.h"

namespace hsattn::reference {

/// What a position's search weighed and rejected, of one part of a candidate.
struct Rejected {
  Index part = 0;                ///< of the smallest nodes' parts
  std::vector<double> log_mass;  ///< of each query head: log of the sum of exp(score) over its rejected tokens
};
/// [batch, kv_heads, queries]
using Tails = std::vector<std::vector<Rejected>>;

/// Fills `blocks` [batch, kv_heads, queries, slots] with every position's list. `scale` multiplies q.k. With `tails`,
/// what was rejected goes there.
void select(const ConstView& q, const ConstView& k, const PlanShape& shape, const PlanOptions& options, double scale,
            std::int32_t* blocks, Executor& executor, const std::optional<ConstView>& pooled_keys = {},
            Tails* tails = nullptr);

/// Writes o, and lse if it is not null. `plan` is trusted: see check_plan(). With `tails`, mean values of what was
/// rejected are attended with the plan's share of its mass.
void forward(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionOutputs& out,
             Executor& executor, const Tails* tails = nullptr);

/// Overwrites dq, dk, dv and, if asked for, those of pooled nodes. Reads only `saved.dout`: the softmax and o are
/// recomputed in double, so that the gradients carry no rounding of a stored o or lse.
void backward(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionSaved& saved,
              const AttentionGradients& grads, Executor& executor);

// --- The parts, one position at a time, for those who compare or explain. ---

/// Budgets of a head's search, in nodes and blocks.
struct SearchBudget {
  Index top_nodes = 0;     ///< start at the finest level on which at most so many nodes cover the past
  Index start_level = -1;  ///< or at this level above the smallest nodes, if not negative
  Index beam = 0;          ///< nodes refined per level
  Index candidates = 0;    ///< smallest nodes that the descent returns; their blocks are rescored if `rescore`
  Index kept = 0;          ///< blocks that are attended besides sinks
  double mass = 0;         ///< if not 0: as few of them as hold this share of the attention
  Index least = 0;         ///< but at least so many
  bool rescore = false;    ///< nodes are several blocks, or more of them are candidates than lists have room for

  SearchBudget(const PlanShape& shape, const PlanOptions& options, Index kv_head);
};

/// One choice of the search: `kept` of the `nodes`, the highest `scores`, ties to the lower index.
/// With a mass budget, `slack` is by how much of the attention the last choice could have ended one block earlier or
/// later; infinite where no share decided.
struct Stage {
  Index level = 0;  ///< level above the smallest nodes; kRescore for the masses of candidates' blocks
  std::vector<Index> nodes;
  std::vector<double> scores;
  std::vector<Index> kept;  ///< ascending
  double slack = std::numeric_limits<double>::infinity();
  static constexpr Index kRescore = -1;
};

/// The list of one position, ascending, without padding: sinks of its past and the blocks that its query heads choose.
/// `queries[g]` is the row of head g at this position, `keys` comes from make_search_pyramid(). With `trace`, every
/// stage of the search is appended to it. With `rejected`, what rescoring weighed and did not keep is.
std::vector<Index> select_position(const std::vector<std::span<const double>>& queries, const Pyramid& keys,
                                   const PlanShape& shape, const SearchBudget& budget, double scale, Index position,
                                   std::vector<Stage>* trace = nullptr, std::vector<Rejected>* rejected = nullptr);

/// Tokens and nodes of a head: what is pooled is given, or as the plan's rules say.
struct HeadPyramids {
  Pyramid k, v;
};
HeadPyramids pyramids_of(const AttentionInputs& in, const PlanShape& shape, Index batch, Index kv_head);

/// Everything that one query attends: tokens of the near run and of the listed blocks, and far nodes.
std::vector<Node> seen_by(const PlanView& plan, Index batch, Index kv_head, Index query);

/// Softmax over what a row sees. No key, or none above -inf: no weight (all 0) and lse = -inf.
struct RowSoftmax {
  std::vector<double> weight;  ///< one per node seen
  double lse = 0;
};
RowSoftmax softmax_of_row(std::span<const double> q, double scale, const std::vector<Node>& seen, const Pyramid& keys);

double dot(std::span<const double> a, std::span<const double> b);

/// log(sum(exp(x))); -inf for no values. The sum starts from the largest, so that nothing overflows.
double log_sum_exp(std::span<const double> values);

}  // namespace hsattn::reference
