// The public operation: one attention, planned and run.
#pragma once

#include <optional>
#include <span>

#include "hsattn/base/executor.h"
#include "hsattn/base/view.h"
#include "hsattn/plan/plan.h"
#include "hsattn/plan/sequences.h"

namespace hsattn {

/// What attention reads.
///   q     [batch, heads, queries, dim]     float32, bfloat16, float16 or float64, last stride 1
///   k, v  [batch, kv_heads, keys, dim]     type of q; heads is a multiple of kv_heads; dim is 8..256
struct AttentionInputs {
  ConstView q, k, v;
  std::optional<double> scale;  ///< multiplies q.k; 1/sqrt(dim) if unset
  /// What the caller pooled, such as pool_forward() for the plan's block: searched and attended in the place of means
  /// or maxima. A node may depend on its own tokens alone, or later ones leak into earlier positions. Nodes of the same
  /// tokens (the last ones of several levels) must be equal, since it is not said which of them is attended.
  std::optional<ConstNodes> pooled = {};
};

/// What attention writes. Memory apart from the inputs.
///   o    [batch, heads, queries, dim]  type of q
///   lse  [batch, heads, queries]       natural log of the softmax denominator, contiguous, float32 (float64 if q
///                                  is); may be null
struct AttentionOutputs {
  View o;
  void* lse = nullptr;
};

/// What backward reads besides the inputs: the gradient of o, and the outputs of the forward pass.
struct AttentionSaved {
  ConstView dout, o;
  const void* lse = nullptr;  ///< [batch, heads, queries], contiguous
};

/// Gradients, each shaped and typed as its input; overwritten. Memory apart from everything read and from each other:
/// the bytes from a view's first element to its last meet no other view's, even where they would only interleave.
struct AttentionGradients {
  View dq, dk, dv;
  /// Of `pooled`, if that is given and the far field, through which alone it gets any, is on; else unset. What nodes
  /// get is not passed on to dk and dv then.
  std::optional<Nodes> dpooled = {};
};

/// Chooses what every position attends. Pure: position p's list depends on the queries of p and the keys before p's
/// near window, never on other queries, the thread count or how the sequence is cut into calls.
///
/// With `pooled_keys` (AttentionInputs::pooled) the search scores these.
///
/// Throws InvalidArgument if shapes, types or options do not fit.
/// Source: HSA paper, section 3.2. Differs: every position selects for itself (docs/design.md, "Selection").
Plan make_plan(const ConstView& q, const ConstView& k, const PlanOptions& options, std::optional<double> scale = {},
               Executor& executor = serial_executor(), const std::optional<ConstView>& pooled_keys = {});

/// The same into memory of the caller: `blocks` has room for batch * kv_heads * queries * plan_shape(...).slots() ids.
void make_plan_into(const ConstView& q, const ConstView& k, const PlanOptions& options, std::optional<double> scale,
                    std::int32_t* blocks, Executor& executor = serial_executor(),
                    const std::optional<ConstView>& pooled_keys = {});

/// Attention over what `plan` lists: near run, blocks and far nodes in one softmax.
///
/// A row that sees no key gives o = 0, lse = -inf. Keys and values that a row does not see may hold NaN.
/// Throws InvalidArgument if shapes or types disagree, or memory overlaps.
void attention_forward(const AttentionInputs& in, const PlanView& plan, const AttentionOutputs& out,
                       Executor& executor = serial_executor());

/// Plans and attends in one pass; lists are made and consumed group by group. With `keep` (memory as for
/// make_plan_into) the lists are stored there, for backward. Same results, bit by bit, as make_plan followed by
/// attention_forward.
void attention_forward(const AttentionInputs& in, const PlanOptions& options, const AttentionOutputs& out,
                       std::int32_t* keep = nullptr, Executor& executor = serial_executor());

/// Gradients of attention with the plan held fixed; selection carries no gradient.
void attention_backward(const AttentionInputs& in, const PlanView& plan, const AttentionSaved& saved,
                        const AttentionGradients& grads, Executor& executor = serial_executor());

/// The same for several sequences that share tensors: each is attended as if it were alone, with the same bits. The
/// tensors have the shapes above; `sequences` says which tokens belong together. No query may be in two sequences. Rows
/// of o that are in none become 0, of lse -inf, and whatever their q, k and v hold is not read. With `keep` the lists
/// are stored one after another; it has room for list_elements(plan_shapes(...)). Pooled nodes of a batch element's
/// sequences lie one sequence after another, as pool_forward() with sequences leaves them; there may be more rows than
/// nodes, which are not read and get gradients of 0.
void attention_forward(const AttentionInputs& in, std::span<const Sequence> sequences, const PlanOptions& options,
                       const AttentionOutputs& out, std::int32_t* keep = nullptr,
                       Executor& executor = serial_executor());

/// With a plan for each sequence.
void attention_forward(const AttentionInputs& in, std::span<const Sequence> sequences, std::span<const PlanView> plans,
                       const AttentionOutputs& out, Executor& executor = serial_executor());

/// The gradients of tokens in no sequence become 0. No key may be in two sequences either.
void attention_backward(const AttentionInputs& in, std::span<const Sequence> sequences, std::span<const PlanView> plans,
                        const AttentionSaved& saved, const AttentionGradients& grads,
                        Executor& executor = serial_executor());

/// The lists that forward would keep.
void make_plans_into(const ConstView& q, const ConstView& k, std::span<const Sequence> sequences,
                     const PlanOptions& options, std::optional<double> scale, std::int32_t* blocks,
                     Executor& executor = serial_executor(), const std::optional<ConstView>& pooled_keys = {});

/// The name of the kernel that a call would run: "amx", "avx512_bf16", "avx512", "avx2", "portable_amx",
/// "portable_bf16", "portable" or "reference".
const char* chosen_kernel(const AttentionInputs& in);

}  // namespace hsattn
