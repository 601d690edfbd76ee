// The kernels, best first: a checked call goes to the first that takes it.
#pragma once

#include "hsattn/attention/attention.h"

namespace hsattn::dispatch {

/// The name of the kernel that takes tensors of `type`.
const char* kernel_name(DType type);

/// Fills `blocks` with the lists of every position.
void select(const ConstView& q, const ConstView& k, const PlanShape& shape, const PlanOptions& options, double scale,
            std::int32_t* blocks, Executor& executor, const std::optional<ConstView>& pooled_keys = {});

void forward(const AttentionInputs& in, const PlanView& plan, const AttentionOutputs& out, Executor& executor);

/// Plans and attends; lists go to `keep` if it is not null.
void forward(const AttentionInputs& in, const PlanShape& shape, const PlanOptions& options, const AttentionOutputs& out,
             std::int32_t* keep, Executor& executor);

void backward(const AttentionInputs& in, const PlanView& plan, const AttentionSaved& saved,
              const AttentionGradients& grads, Executor& executor);

}  // namespace hsattn::dispatch
