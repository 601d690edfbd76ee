#include "support/linear.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "support/plain.h"

namespace hsattn::testing {
namespace {

using Vector = std::vector<float>;

const std::vector<float>& features_of(Index count, Index dim) {
  static std::map<std::pair<Index, Index>, std::vector<float>> drawn;
  auto& features = drawn[{count, dim}];
  if (features.empty()) features = draw_features(count, dim, 5);
  return features;
}

// One row's features, exp(log_scale) times `phi`.
struct FeatureRow {
  Vector phi;
  float log_scale = 0;
};

FeatureRow feature_row(const FeatureMap& map, const float* x, Index dim, float scale) {
  FeatureRow row;
  if (map.projection == nullptr) {
    for (Index d = 0; d < dim; ++d) row.phi.push_back(as_stored(x[d] > 0 ? x[d] + 1 : std::exp(x[d])));
    return row;
  }
  for (Index f = 0; f < map.features; ++f)
    row.phi.push_back(std::sqrt(scale) * plain_dot(map.projection + f * dim, x, dim));
  const float largest = *std::max_element(row.phi.begin(), row.phi.end());
  for (float& phi : row.phi) phi = as_stored(std::exp(phi - largest));
  row.log_scale = largest - scale * plain_dot(x, x, dim) / 2;
  return row;
}

// dx of one row from dphi.
void feature_gradient(const FeatureMap& map, const float* x, Index dim, float scale, const FeatureRow& row,
                      const Vector& dphi, bool key, float* dx) {
  if (map.projection == nullptr) {
    for (Index d = 0; d < dim; ++d) dx[d] = as_stored(dphi[d] * std::min(1.0F, row.phi[d]));
    return;
  }
  Vector sum(static_cast<std::size_t>(dim));
  float all = 0;
  for (Index f = 0; f < map.features; ++f) {
    const float u = dphi[f] * row.phi[f];
    all += u;
    for (Index d = 0; d < dim; ++d) sum[d] += u * map.projection[f * dim + d];
  }
  for (Index d = 0; d < dim; ++d) dx[d] = as_stored(std::sqrt(scale) * sum[d] - (key ? all * scale * x[d] : 0));
}

// Adds one query head's part.
void plain_head(const LinearProblem& problem, const Tensors<float>& in, Index b, Index h, Solution<float>& out,
                std::vector<Vector>& dkeys, Tensor<float>& dv) {
  const Problem& p = problem.shape;
  const FeatureMap map = problem.options().map;
  const Index kv = h / p.group(), count = map.count(p.dim);
  const auto scale = static_cast<float>(p.scale_used());
  std::vector<FeatureRow> keys;
  for (Index j = 0; j < p.keys; ++j) keys.push_back(feature_row(map, in.k.row(b, kv, j), p.dim, scale));
  for (Index i = 0; i < p.queries; ++i) {
    const FeatureRow query = feature_row(map, in.q.row(b, h, i), p.dim, scale);
    const Index seen = p.options.causal ? std::max<Index>(0, i + p.keys - p.queries + 1) : p.keys;
    float top = -std::numeric_limits<float>::infinity(), sum = 0, mean = 0;
    for (Index j = 0; j < seen; ++j) top = std::max(top, keys[j].log_scale);
    Vector weight, o(static_cast<std::size_t>(p.dim)), dquery(static_cast<std::size_t>(count));
    for (Index j = 0; j < seen; ++j) {
      weight.push_back(
          as_stored(plain_dot(query.phi.data(), keys[j].phi.data(), count) * std::exp(keys[j].log_scale - top)));
      sum += weight.back();
    }
    for (Index j = 0; j < seen; ++j) {
      weight[j] = as_stored(weight[j] / sum);
      for (Index d = 0; d < p.dim; ++d) o[d] += weight[j] * in.v.row(b, kv, j)[d];
    }
    const float* dout = in.dout.row(b, h, i);
    for (Index d = 0; d < p.dim; ++d) out.o.row(b, h, i)[d] = as_stored(o[d]);
    mean = plain_dot(dout, out.o.row(b, h, i), p.dim);
    for (Index j = 0; j < seen; ++j) {
      const float dweight =
          as_stored((plain_dot(dout, in.v.row(b, kv, j), p.dim) - mean) / sum) * std::exp(keys[j].log_scale - top);
      for (Index f = 0; f < count; ++f) {
        dquery[f] += dweight * keys[j].phi[f];
        dkeys[j][f] += dweight * query.phi[f];
      }
      for (Index d = 0; d < p.dim; ++d) dv.row(b, kv, j)[d] += weight[j] * dout[d];
    }
    feature_gradient(map, in.q.row(b, h, i), p.dim, scale, query, dquery, false, out.dq.row(b, h, i));
  }
}

template <class T>
Solution<T> solve_as(const LinearProblem& problem, const Tensors<T>& in, Executor& executor) {
  const Problem& p = problem.shape;
  const LinearOptions options = problem.options();
  Solution<T> out;
  out.o = out.dq = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  out.dk = out.dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  linear_attention_forward(in.inputs(p), options, out.o.view(), executor);
  linear_attention_backward(in.inputs(p), options, in.dout.view(), as_const(out.o.view()),
                            {out.dq.view(), out.dk.view(), out.dv.view()}, executor);
  for (const Tensor<T>* x : {&out.o, &out.dq, &out.dk, &out.dv})
    check(padding_is_untouched(*x), "something was written between the rows of an output");
  return out;
}

}  // namespace

LinearOptions LinearProblem::options() const {
  LinearOptions options;
  options.causal = shape.options.causal;
  if (features > 0) options.map = {features_of(features, shape.dim).data(), features};
  return options;
}

std::string describe(const LinearProblem& problem) {
  const Problem& p = problem.shape;
  return concat(p.name, ": ", p.options.causal ? "causal" : "bidirectional", ", batch ", p.batch, ", heads ", p.heads,
                "/", p.kv_heads, ", queries ", p.queries, ", keys ", p.keys, ", dim ", p.dim, ", layout ",
                static_cast<int>(p.layout), ", features ", problem.features);
}

template <>
Solution<double> solve_linear(const LinearProblem& problem, const Tensors<double>& in, Executor& executor) {
  return solve_as(problem, in, executor);
}

template <>
Solution<float> solve_linear(const LinearProblem& problem, const Tensors<float>& in, Executor& executor) {
  Solution<float> out;
  with_element_type(stored_type(), [&](auto element) {
    using T = decltype(element);
    const Layout layout = problem.shape.layout;
    const auto stored = [&](const Tensor<float>& x) { return converted<T>(x, layout); };
    const auto found = solve_as<T>(problem, {stored(in.q), stored(in.k), stored(in.v), stored(in.dout)}, executor);
    const auto floats = [&](const Tensor<T>& x) { return converted<float>(x, layout); };
    out = {floats(found.o), floats(found.dq), floats(found.dk), floats(found.dv), {}};
  });
  return out;
}

Solution<float> plain_linear(const LinearProblem& problem, const Tensors<float>& in) {
  const Problem& p = problem.shape;
  const FeatureMap map = problem.options().map;
  Solution<float> out;
  out.o = out.dq = Tensor<float>(p.batch, p.heads, p.queries, p.dim);
  out.dk = out.dv = Tensor<float>(p.batch, p.kv_heads, p.keys, p.dim);
  std::fill(out.dv.data.begin(), out.dv.data.end(), 0.0F);
  const auto scale = static_cast<float>(p.scale_used());
  for (Index b = 0; b < p.batch; ++b) {
    for (Index kv = 0; kv < p.kv_heads; ++kv) {
      std::vector<Vector> dkeys(static_cast<std::size_t>(p.keys), Vector(static_cast<std::size_t>(map.count(p.dim))));
      for (Index g = 0; g < p.group(); ++g) plain_head(problem, in, b, kv * p.group() + g, out, dkeys, out.dv);
      for (Index j = 0; j < p.keys; ++j) {
        const float* key = in.k.row(b, kv, j);
        feature_gradient(map, key, p.dim, scale, feature_row(map, key, p.dim, scale), dkeys[j], true,
                         out.dk.row(b, kv, j));
      }
    }
  }
  for (float& x : out.dv.data) x = as_stored(x);
  return out;
}

}  // namespace hsattn::testing
