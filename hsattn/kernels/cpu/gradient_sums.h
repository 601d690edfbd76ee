// Gradients of one head: sums of ranges of queries, merged, spread from nodes to tokens, written.
#pragma once

#include "hsattn/attention/attention.h"
#include "hsattn/base/buffer.h"
#include "hsattn/kernels/cpu/layout.h"
#include "hsattn/kernels/cpu/rows.h"

namespace hsattn::cpu {

// Sums of one (head, range of queries), merged in the order of the ranges.
struct GradientSums {
  Buffer<float> dk, dv, dk_nodes, dv_nodes;
  Index tokens = 0, nodes = 0;  // floats of each

  GradientSums(const PackedHead& head, bool far_field);
  void clear();
};

// What becomes of the gradients of one head.
struct HeadGradients {
  WritableRows dk, dv;
  bool pooled = false;             // nodes were given: no gradient of theirs goes to tokens
  Rows<float> dk_nodes, dv_nodes;  // then; without rows if they are not wanted
};

HeadGradients head_gradients(const AttentionInputs& in, const AttentionGradients& grads, Index head);

// Merges the `count` ranges of one head, spreads the gradients of nodes to tokens, and writes dk and dv.
void finish_head(const PackedHead& packed, const PlanShape& shape, GradientSums* ranges, Index count, float scale,
                 const StoredRows& k, const StoredRows& v, const HeadGradients& out);

}  // namespace hsattn::cpu
