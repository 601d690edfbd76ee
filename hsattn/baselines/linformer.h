// Attention over keys and values that are projected along the sequence to fewer rows.
#pragma once

#include <span>

#include "hsattn/attention/attention.h"

namespace hsattn {

/// The learned projections E (of keys) and F (of values), each [rank, longest], contiguous, float32 (float64 if the
/// tensors are). Column t belongs to the t-th key of a sequence. They may be the same memory.
struct Projections {
  const void* keys = nullptr;
  const void* values = nullptr;
  Index rank = 0, longest = 0;
};

/// Gradients of both, overwritten; memory apart from everything.
struct ProjectionGradients {
  void* keys = nullptr;
  void* values = nullptr;
};

struct LinformerOptions {
  Projections projections;
  Index segment = 256;  ///< tokens, 1 to 2^32; of the causal form only
  bool causal = true;
};

/// softmax(scale q K'^T) V' in the place of attention to all keys; Wang et al. 2020, equation 7.
///
/// Bidirectional, as in the paper: K' = E K and V' = F V, with the first `keys` columns of both; `rank` rows.
/// Causal, which the paper leaves out: the tokens are cut into segments, and a position attends the projections of all
/// segments before its own, `rank` rows each (K'_s = E_s K_s with the columns of segment s), and the tokens of its own
/// segment up to itself, in one softmax.
///
/// Tensors, positions, `in.scale`, o and lse are those of attention_forward(). Throws InvalidArgument if shapes or
/// options do not fit, memory overlaps, pooled nodes are given, or a sequence is longer than `longest`.
void linformer_forward(const AttentionInputs& in, const LinformerOptions& options, const AttentionOutputs& out,
                       Executor& executor = serial_executor());

/// The same for several sequences that share tensors, each as if it were alone; see attention_forward().
void linformer_forward(const AttentionInputs& in, std::span<const Sequence> sequences, const LinformerOptions& options,
                       const AttentionOutputs& out, Executor& executor = serial_executor());

/// Gradients of q, k, v and of the projections, which sum over batch, heads and sequences.
void linformer_backward(const AttentionInputs& in, const LinformerOptions& options, const AttentionSaved& saved,
                        const AttentionGradients& grads, const ProjectionGradients& projection_grads,
                        Executor& executor = serial_executor());

void linformer_backward(const AttentionInputs& in, std::span<const Sequence> sequences, const LinformerOptions& options,
                        const AttentionSaved& saved, const AttentionGradients& grads,
                        const ProjectionGradients& projection_grads, Executor& executor = serial_executor());

}  // namespace hsattn
