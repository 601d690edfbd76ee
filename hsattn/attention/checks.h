// Checks of a call, done before anything is read, written or allocated. Each throws InvalidArgument.
#pragma once

#include "hsattn/attention/attention.h"
#include "hsattn/base/view_checks.h"

namespace hsattn {

/// q and k fit together; what a plan needs. `who` opens each message.
void check_queries_and_keys(const char* who, const ConstView& q, const ConstView& k, std::optional<double> scale);

/// q, k and v fit together.
void check_inputs(const char* who, const AttentionInputs& in);

/// Nodes of the pyramid of k in blocks of `block`: right shape and type.
void check_nodes(const char* who, const char* name, const ConstView& nodes, const ConstView& k, Index block);

/// Nodes that are given come whole: the shape asks for no parts of them.
void check_no_parts(const char* who, const PlanShape& shape);

/// Pooled keys and values, if they are given, are such nodes, and the shape asks for no parts of them.
void check_pooled(const char* who, const AttentionInputs& in, const PlanShape& shape);

/// The plan, and what is pooled, was made for these shapes.
void check_plan_fits(const char* who, const AttentionInputs& in, const PlanView& plan);

/// o has q's shape and type and shares no memory with q, k, v or lse.
void check_outputs(const char* who, const AttentionInputs& in, const AttentionOutputs& out);

/// dout, o, lse (or null) and the gradients have the right shapes and types; gradients share no memory with anything
/// else.
void check_gradients(const char* who, const AttentionInputs& in, const AttentionSaved& saved,
                     const AttentionGradients& grads);

/// Gradients of pooled keys and values are there if the far field gives them any, and lie apart from everything else.
void check_gradients_of_pooled(const char* who, const AttentionInputs& in, bool far_field, const AttentionSaved& saved,
                               const AttentionGradients& grads);

/// The forward pass has kept lse.
void check_saved_lse(const char* who, const AttentionInputs& in, const void* lse);

/// The memory of lse [batch, heads, queries] of a call with these queries; none if it is null.
Bytes bytes_of_lse(const void* lse, const ConstView& q);

/// There is memory for lists of `elements` ids.
void check_memory_for_lists(const char* who, const std::int32_t* blocks, Index elements);

/// The scale that a call uses: the given one, or 1/sqrt(dim).
double scale_or_default(std::optional<double> scale, Index dim);

}  // namespace hsattn
