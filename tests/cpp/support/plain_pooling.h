// The paper's pooler in plain float32, node by node: the yardstick of its error bound.
#pragma once

#include "support/pooling.h"

namespace hsattn::testing {

/// Nodes of keys or of values, which the pooler treats alike.
Tensor<float> plain_paper_nodes(Index block, const Tensor<float>& x, const std::vector<float>& parameters);

struct PlainPaperGradients {
  Tensor<float> dx;
  std::vector<float> dparameters;
};
PlainPaperGradients plain_paper_backward(Index block, const Tensor<float>& x, const std::vector<float>& parameters,
                                         const Tensor<float>& dnodes);

}  // namespace hsattn::testing
