#include "support/problem.h"

#include <cmath>

#include "hsattn/base/error.h"

namespace hsattn::testing {
namespace {

void fill(Tensor<float>& tensor, Random& random, float correlation) {
  std::normal_distribution<float> normal;
  const float fresh = std::sqrt(1 - correlation * correlation);
  tensor.for_each([&](float& x, Index b, Index h, Index t, Index c) {
    const float before = t == 0 ? normal(random) : tensor.row(b, h, t - 1)[c];
    x = correlation * before + fresh * normal(random);
  });
}

}  // namespace

Index uniform(Random& random, Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); }

double Problem::scale_used() const { return scale.value_or(1.0 / std::sqrt(static_cast<double>(dim))); }

std::string describe(const Problem& p) {
  const HsaOptions& o = p.options.hsa;
  return concat(p.name, ": ", name_of(p.options.pattern), p.options.causal ? " causal" : " bidirectional", ", batch ",
                p.batch, ", heads ", p.heads, "/", p.kv_heads, ", queries ", p.queries, ", keys ", p.keys, ", dim ",
                p.dim, ", layout ", static_cast<int>(p.layout), ", window ", o.window, ", top_k ", o.top_k,
                ", candidates ", o.candidates, ", block ", o.block, ", sinks ", o.sinks, ", top_nodes ", o.top_nodes,
                ", beam ", o.beam, ", dense_until ", o.dense_until, ", far_field ", o.far_field, ", levels ", o.levels,
                ", pooling ", name_of(o.pooling), ", mass ", o.mass, ", min_top_k ", o.min_top_k);
}

PlanOptions searching_options(Random& random, bool causal) {
  PlanOptions options{Pattern::kHsa, causal, {}};
  options.hsa.block = one_of<Index>(random, {4, 8});
  options.hsa.window = one_of<Index>(random, {8, 16});
  options.hsa.top_k = one_of<Index>(random, {16, 24, 32, 64});
  options.hsa.candidates = one_of<Index>(random, {32, 48, 64, 128});
  options.hsa.beam = uniform(random, 2, 8);
  options.hsa.top_nodes = 8;
  options.hsa.dense_until = 0;
  options.hsa.far_field = uniform(random, 0, 1) == 1;
  options.hsa.pooling = one_of(random, {Pooling::kMean, Pooling::kMean, Pooling::kMax});
  options.hsa.mass = one_of(random, {0.0, 0.0, 0.5, 0.9});
  options.hsa.min_top_k = one_of<Index>(random, {1, 8, 16});
  return options;
}

Tensors<float> random_tensors(const Problem& p, std::uint64_t seed) {
  Random random(seed);
  Tensors<float> in{Tensor<float>(p.batch, p.heads, p.queries, p.dim, p.layout),
                    Tensor<float>(p.batch, p.kv_heads, p.keys, p.dim, p.layout),
                    Tensor<float>(p.batch, p.kv_heads, p.keys, p.dim, p.layout),
                    Tensor<float>(p.batch, p.heads, p.queries, p.dim, p.layout)};
  fill(in.q, random, 0.9F);
  fill(in.k, random, 0.5F);
  fill(in.v, random, 0);
  fill(in.dout, random, 0);
  return in;
}

Tensors<double> in_double(const Tensors<float>& in) {
  return {converted<double>(in.q), converted<double>(in.k), converted<double>(in.v), converted<double>(in.dout)};
}

template <class T>
Solution<T> solve_forward(const Problem& p, const Tensors<T>& in, const PlanView& plan, Executor& executor) {
  Solution<T> out;
  out.o = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  out.lse.assign(static_cast<std::size_t>(p.batch * p.heads * p.queries), std::numeric_limits<T>::quiet_NaN());
  attention_forward(in.inputs(p), plan, {out.o.view(), out.lse.data()}, executor);
  return out;
}

template <class T>
Solution<T> solve(const Problem& p, const Tensors<T>& in, const PlanView& plan, Executor& executor) {
  Solution<T> out = solve_forward(p, in, plan, executor);
  out.dq = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  out.dk = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  out.dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  const AttentionSaved saved{in.dout.view(), as_const(out.o.view()), out.lse.data()};
  attention_backward(in.inputs(p), plan, saved, {out.dq.view(), out.dk.view(), out.dv.view()}, executor);
  return out;
}

template Solution<float> solve_forward(const Problem&, const Tensors<float>&, const PlanView&, Executor&);
template Solution<double> solve_forward(const Problem&, const Tensors<double>&, const PlanView&, Executor&);
template Solution<float> solve(const Problem&, const Tensors<float>&, const PlanView&, Executor&);
template Solution<double> solve(const Problem&, const Tensors<double>&, const PlanView&, Executor&);

}  // namespace hsattn::testing
