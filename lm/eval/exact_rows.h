// Attention of single positions in double, term by term from their spans: what the kernels are checked against at any
// length.
#pragma once

#include <vector>

#include "lm/eval/spans.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

/// Probabilities of one position's spans: of each token (near, blocks) or node (far), in the order of `spans`.
struct ExactRow {
  at::Tensor output;         // [d]
  at::Tensor probabilities;  // [entries]
  std::vector<Index> first;  // [spans]: entry of each span's first token or node
};

/// Nodes that a pooler with parameters made, [nodes of all levels, d], double, and the tokens of a block.
struct ExactNodes {
  at::Tensor k, v;
  Index block = 0;
};

/// q [d], k and v [keys, d], all double; differentiable in all three (maxima where no two elements are equal). `nodes`,
/// if not null, stand in the place of means or maxima.
ExactRow exact_row(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::vector<Span>& spans,
                   Pooling pooling = Pooling::kMean, const ExactNodes* nodes = nullptr);

/// The rules of a call of self-attention that made `kept`, as a view of its lists.
PlanView plan_view(const PlanOptions& options, const at::Tensor& q, const at::Tensor& k, const at::Tensor& kept);

}  // namespace hsattn::lm
