// The CPU kernels as whole calls: packing, waves of heads, tasks, merging of gradients. Any type but float64.
#pragma once

#include "hsattn/attention/attention.h"

namespace hsattn::cpu {

/// Fills `blocks` [batch, kv_heads, queries, slots].
void select(const ConstView& q, const ConstView& k, const PlanShape& shape, const PlanOptions& options, double scale,
            std::int32_t* blocks, Executor& executor, const std::optional<ConstView>& pooled_keys = {});

/// Attention over the lists of `plan`.
void forward(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionOutputs& out,
             Executor& executor);

/// Plans and attends tile by tile; lists go to `keep` if it is not null.
void forward(const AttentionInputs& in, double scale, const PlanShape& shape, const PlanOptions& options,
             const AttentionOutputs& out, std::int32_t* keep, Executor& executor);

void backward(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionSaved& saved,
              const AttentionGradients& grads, Executor& executor);

}  // namespace hsattn::cpu
