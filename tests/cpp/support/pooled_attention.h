// Attention over nodes that the caller pooled, as tests call it.
#pragma once

#include <utility>

#include "support/pooling.h"

namespace hsattn::testing {

inline Index pooled_blocks(const Problem& p) {
  return plan_shape(p.options, DType::kFloat32, 1, 1, 1, p.keys).blocks();
}
inline Index nodes_of(const Problem& p) {
  return pooled_nodes(p.keys, plan_shape(p.options, DType::kFloat32, 1, 1, 1, p.keys).block);
}

/// Plan, outputs and gradients of a call with pooled nodes.
template <class T>
struct PooledResult {
  Plan plan;
  Solution<T> solution;
  NodeTensors<LseOf<T>> dnodes;
};

template <class T>
PooledResult<T> solve_pooled(const Problem& p, const Tensors<T>& in, const NodeTensors<LseOf<T>>& nodes,
                             const Plan* plan = nullptr, Executor& executor = serial_executor()) {
  using N = LseOf<T>;
  PooledResult<T> r;
  AttentionInputs inputs = in.inputs(p);
  inputs.pooled = nodes.views();
  r.plan = plan != nullptr ? *plan : make_plan(inputs.q, inputs.k, p.options, p.scale, executor, nodes.views().k);
  Solution<T>& s = r.solution;
  s.o = Tensor<T>(p.batch, p.heads, p.queries, p.dim);
  s.dq = s.o;
  s.dk = s.dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim);
  s.lse.assign(static_cast<std::size_t>(p.batch * p.heads * p.queries), std::numeric_limits<N>::quiet_NaN());
  attention_forward(inputs, r.plan, {s.o.view(), s.lse.data()}, executor);
  AttentionGradients grads{s.dq.view(), s.dk.view(), s.dv.view()};
  if (r.plan.shape.far_field) {
    r.dnodes.k = r.dnodes.v = Tensor<N>(p.batch, p.kv_heads, nodes_of(p), p.dim);
    grads.dpooled = Nodes{r.dnodes.k.view(), r.dnodes.v.view()};
  }
  attention_backward(inputs, r.plan, {in.dout.view(), as_const(s.o.view()), s.lse.data()}, grads, executor);
  return r;
}

inline NodeTensors<double> in_double(const NodeTensors<float>& nodes) {
  return {converted<double>(nodes.k), converted<double>(nodes.v)};
}

inline Problem pooled_problem(Random& random) {
  Problem p{.name = "pooled", .batch = uniform(random, 1, 2)};
  p.options = searching_options(random, uniform(random, 0, 1) == 1);
  p.options.hsa.node = 0;  // what is pooled here are blocks
  p.options.hsa.parts = 1;
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * one_of<Index>(random, {1, 3, 8});
  p.dim = one_of<Index>(random, {8, 24, 64, 80});
  p.keys = uniform(random, 1, 400);
  p.queries = uniform(random, 0, 1) == 0 ? p.keys : uniform(random, 1, p.keys);
  return p;
}

/// Calls visit(parent, child) for the nodes that stand for the same tokens as the one below them, from the top down.
template <class Visit>
void for_each_single_child(const Problem& p, const Visit& visit) {
  std::vector<Index> counts;  // of nodes, level by level
  for (Index nodes = pooled_blocks(p); nodes > 1; nodes = (nodes + 1) / 2) counts.push_back(nodes);
  Index last = nodes_of(p) - 1, count = 1;  // of the level above
  for (auto below = counts.rbegin(); below != counts.rend(); ++below) {
    if (*below % 2 == 1) visit(last, last - count);
    last -= count;
    count = *below;
  }
}

inline NodeTensors<float> random_nodes(const Problem& p, std::uint64_t seed) {
  NodeTensors<float> nodes{normal_tensor<float>(p.batch, p.kv_heads, nodes_of(p), p.dim, seed),
                           normal_tensor<float>(p.batch, p.kv_heads, nodes_of(p), p.dim, seed + 1)};
  for (Tensor<float>* x : {&nodes.k, &nodes.v}) {
    for (Index b = 0; b < p.batch; ++b) {
      for (Index h = 0; h < p.kv_heads; ++h) {
        for_each_single_child(
            p, [&](Index parent, Index child) { std::copy_n(x->row(b, h, parent), p.dim, x->row(b, h, child)); });
      }
    }
  }
  return nodes;
}

/// Gradients of nodes of the same tokens added up: kernels may attend any of them.
template <class T>
Tensor<T> joined(const Problem& p, Tensor<T> x) {
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.kv_heads; ++h) {
      for_each_single_child(p, [&](Index parent, Index child) {
        for (Index c = 0; c < p.dim; ++c) x.row(b, h, child)[c] += std::exchange(x.row(b, h, parent)[c], T{0});
      });
    }
  }
  return x;
}

}  // namespace hsattn::testing
