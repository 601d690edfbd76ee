// A plan: what every position attends. Plain data: printed, compared, drawn, copied to a device as it is.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "hsattn/base/cpu.h"
#include "hsattn/base/types.h"
#include "hsattn/plan/options.h"

namespace hsattn {

/// Tokens or blocks [begin, end).
struct Range {
  Index begin = 0, end = 0;

  Index size() const { return end - begin; }
  bool contains(Index i) const { return i >= begin && i < end; }
  bool operator==(const Range&) const = default;
};

/// Numbers that fix a plan's rules without its lists; the part that all positions share.
///
/// Query i of `queries` has the position i + keys - queries: the mask is aligned at the end (bottom right). A position
/// below 0 sees nothing if causal.
struct PlanShape {
  Index batch = 0, kv_heads = 0, queries = 0, keys = 0;
  Index block = 8;
  Index node = 8;  ///< tokens of the smallest nodes of the search: a power of two times block
  bool causal = true;
  Index window = 0;       ///< near tokens; at least `keys` for full attention
  Index dense_until = 0;  ///< past tokens up to which a position attends everything; 0 if nothing is selected
  Index sinks = 0;        ///< first blocks that are always attended, as a count of blocks; whole nodes
  Index kept = 0;  ///< listed blocks of each position besides sinks; with a mass budget, and of heads with a smaller
                   ///< budget of their own, there are fewer
  bool far_field = false;
  Index far_levels = 0;              ///< tallest far node: 2^far_levels blocks
  Pooling pooling = Pooling::kMean;  ///< of far nodes
  Index global_tokens = 0;           ///< the first positions that attend everything, however long their past is
  double tail = 0;                   ///< as HsaOptions::tail; not in lists, so a plan with a tail cannot be replayed
  Index parts = 1;                   ///< as HsaOptions::parts

  /// Length of each list: sinks + kept, or 0 if the pattern selects nothing.
  Index slots() const { return kept == 0 ? 0 : sinks + kept; }
  /// Ids in the lists of all positions.
  Index list_elements() const { return batch * kv_heads * queries * slots(); }
  Index position(Index query) const { return query + keys - queries; }
  Index blocks() const { return (keys + block - 1) / block; }
  Index nodes() const { return (keys + node - 1) / node; }
  Index blocks_of_node() const { return node / block; }
  Index part() const { return node / parts; }  ///< tokens

  /// Tokens that `position` attends as one run: its near window, or everything if its past is short (see dense()).
  Range near(Index position) const;
  /// Blocks of the past before the near window, and (bidirectional only) after it; both empty for a dense position.
  Range left(Index position) const;
  Range right(Index position) const;
  /// The same in nodes.
  Range left_nodes(Index position) const;
  Range right_nodes(Index position) const;
  /// True if the position attends everything that causality allows, with no list.
  bool dense(Index position) const;

  bool operator==(const PlanShape&) const = default;
};

/// Rules plus, for every (batch, kv head, query), the blocks attended besides the near run.
struct Plan {
  PlanShape shape;
  /// [batch, kv_heads, queries, slots]: block ids, ascending, then -1 up to the end of the slots. Empty if slots is 0.
  std::vector<std::int32_t> blocks;

  /// The list of one position without its padding.
  std::span<const std::int32_t> list(Index batch, Index kv_head, Index query) const;
  bool operator==(const Plan&) const = default;
};

/// A plan whose lists lie in somebody else's memory, such as a tensor's.
struct PlanView {
  PlanShape shape;
  const std::int32_t* blocks = nullptr;  ///< as Plan::blocks; may be null if slots is 0

  PlanView() = default;
  PlanView(const PlanShape& rules, const std::int32_t* lists) : shape(rules), blocks(lists) {}
  PlanView(const Plan& plan) : shape(plan.shape), blocks(plan.blocks.data()) {}  // NOLINT: a plan is a view of itself

  std::span<const std::int32_t> list(Index batch, Index kv_head, Index query) const;
};

/// A pooled node: 2^level blocks from block `index << level`, `tokens` tokens of them (fewer at a ragged end).
struct FarNode {
  Index level = 0, index = 0, tokens = 0;
  bool operator==(const FarNode&) const = default;
};

/// The coarsest nodes of the past that hold no block of `kept`, in ascending order of tokens: the far field of a
/// position. It follows from the list alone.
void far_field_of(const PlanShape& shape, Index position, std::span<const std::int32_t> kept,
                  std::vector<FarNode>& out);

/// The longest past, in tokens, all of which a position of tensors of `type` attends, unless its list has room for
/// more. If dense_until is -1 (auto):
///   - 1024; with a tail as many tokens as are candidates, since to search where all are takes longer;
///   - 8192 with rescoring and 2048 without where bfloat16 is multiplied by tile registers (`isa` is kAmx), which makes
///     dense attention so cheap that a search of less takes longer (docs/pretrained.md, "When not to use it").
Index dense_until_of(const HsaOptions& options, DType type, Isa isa = selected_isa());

/// The rules for a call on tensors of `type`: checks options and sizes (InvalidArgument), rounds budgets to blocks.
PlanShape plan_shape(const PlanOptions& options, DType type, Index batch, Index kv_heads, Index queries, Index keys);

/// Throws InvalidArgument unless the shape is one that plan_shape() could give, but for its budgets, and the lists fit
/// it: right size, ids in range, ascending, padded at the end, only blocks of the position's past.
void check_plan(const PlanView& plan);

/// The invariant of a plan: no token is seen twice by a position, and with the far field on, each token that causality
/// allows is seen exactly once. Returns an empty string, or what is wrong and where.
std::string covers_each_token_once(const PlanView& plan);

/// A few lines of text: shape, budgets, average and largest number of attended and of listed tokens.
std::string describe(const PlanView& plan);

}  // namespace hsattn
