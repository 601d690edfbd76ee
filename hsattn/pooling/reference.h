// The poolers in double, plain loops: what the fast ones are compared with, and where float64 runs.
#pragma once

#include "hsattn/kernels/reference/pyramid.h"
#include "hsattn/pooling/pooler.h"

namespace hsattn::reference {

/// Keys and values of one head, or gradients of them: tokens, and nodes of all levels.
struct PooledHead {
  Pyramid k, v;
};

/// parameters [pooler_rows(), dim]
PooledHead pool_head(Pooler pooler, Index block, const Matrix& parameters, Matrix k, Matrix v);

/// The backward of pool_head, which gave `head`: moves the gradients of nodes into those of tokens, and adds to
/// `dparameters`. What lies behind nodes whose gradient is exactly zero is not touched.
void pool_head_backward(Pooler pooler, const Matrix& parameters, const PooledHead& head, PooledHead& gradients,
                        Matrix& dparameters);

/// The paper's form: a node of `children` [count, dim] with `tokens` tokens behind each.
std::vector<double> paper_node(const Matrix& parameters, const Matrix& children, const std::vector<double>& tokens);

/// Adds to dchildren and dparameters what the gradient of that node gives.
void paper_node_backward(const Matrix& parameters, const Matrix& children, const std::vector<double>& tokens,
                         std::span<const double> gradient, Matrix& dchildren, Matrix& dparameters);

void pool_forward(const PoolerInputs& in, const Nodes& out, Executor& executor);
void pool_backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads, Executor& executor);

}  // namespace hsattn::reference
