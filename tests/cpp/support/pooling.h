// Poolers in tests: random parameters, and forward and backward into tensors of their own.
#pragma once

#include "support/problem.h"

namespace hsattn::testing {

constexpr Pooler kPoolers[] = {Pooler::kAttention, Pooler::kAttentionPaper, Pooler::kLearnable};

/// The initial parameters and normal noise of this deviation on each; on matrices over the root of their inputs.
template <class N>
std::vector<N> random_parameters(Pooler pooler, Index dim, double deviation, std::uint64_t seed) {
  std::vector<N> parameters(static_cast<std::size_t>(pooler_rows(pooler, dim) * dim));
  write_initial_parameters(pooler, dim, type_of<N>(), parameters.data());
  Random random(seed);
  const double inputs = pooler == Pooler::kAttentionPaper ? static_cast<double>(dim) : 1;
  std::normal_distribution<double> normal(0, deviation / std::sqrt(inputs));
  for (N& p : parameters) p += static_cast<N>(normal(random));
  return parameters;
}

/// Nodes, or gradients of them; N is double beside tensors of double, else float.
template <class N>
struct NodeTensors {
  Tensor<N> k, v;
  ConstNodes views() const { return {k.view(), v.view()}; }
};

template <class T, class N = LseOf<T>>
PoolerInputs pooler_inputs(Pooler pooler, Index block, const Tensor<T>& k, const Tensor<T>& v,
                           const std::vector<N>& parameters) {
  return {pooler, block, k.view(), v.view(), parameters.data()};
}

template <class T, class N = LseOf<T>>
NodeTensors<N> pooled(Pooler pooler, Index block, const Tensor<T>& k, const Tensor<T>& v,
                      const std::vector<N>& parameters, Executor& executor = serial_executor(),
                      Layout layout = Layout::kContiguous) {
  const Tensor<N> none(k.batch, k.heads, pooled_nodes(k.tokens, block), k.dim, layout);
  NodeTensors<N> nodes{none, none};
  pool_forward(pooler_inputs(pooler, block, k, v, parameters), {nodes.k.view(), nodes.v.view()}, executor);
  return nodes;
}

template <class T>
struct PoolerSolution {
  Tensor<T> dk, dv;
  std::vector<LseOf<T>> dparameters;
};

template <class T, class N = LseOf<T>>
PoolerSolution<T> pooled_backward(Pooler pooler, Index block, const Tensor<T>& k, const Tensor<T>& v,
                                  const std::vector<N>& parameters, const NodeTensors<N>& dnodes,
                                  Executor& executor = serial_executor(), Layout layout = Layout::kContiguous) {
  const Tensor<T> none(k.batch, k.heads, k.tokens, k.dim, layout);
  PoolerSolution<T> out{none, none, std::vector<N>(parameters.size(), std::numeric_limits<N>::quiet_NaN())};
  pool_backward(pooler_inputs(pooler, block, k, v, parameters), dnodes.views(),
                {out.dk.view(), out.dv.view(), out.dparameters.data()}, executor);
  return out;
}

template <class T>
Tensor<T> normal_tensor(Index batch, Index heads, Index tokens, Index dim, std::uint64_t seed,
                        Layout layout = Layout::kContiguous) {
  Tensor<T> x(batch, heads, tokens, dim, layout);
  Random random(seed);
  std::normal_distribution<float> normal;
  x.for_each([&](T& e, Index, Index, Index, Index) { e = static_cast<T>(normal(random)); });
  return x;
}

}  // namespace hsattn::testing
