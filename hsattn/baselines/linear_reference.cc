#include "hsattn/baselines/linear_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "hsattn/baselines/reference_rows.h"

namespace hsattn::reference {
namespace {

constexpr double kLowestElu = -20, kLowestFeature = -30;  // see FeatureMap
constexpr double kNoKeys = -std::numeric_limits<double>::infinity();

template <class T>
auto& at(T& values, Index i) {
  return values[static_cast<std::size_t>(i)];
}

// phi of one row is exp(log_scale) times `phi`.
struct FeatureRow {
  std::vector<double> phi;
  double log_scale = 0;
};

FeatureRow elu_features(const double* x, Index dim) {
  FeatureRow row;
  for (Index d = 0; d < dim; ++d) row.phi.push_back(x[d] > 0 ? x[d] + 1 : std::exp(std::max(x[d], kLowestElu)));
  return row;
}

FeatureRow random_features(const FeatureMap& map, const double* x, Index dim, double scale) {
  FeatureRow row;
  for (Index f = 0; f < map.features; ++f) {
    double product = 0;
    for (Index d = 0; d < dim; ++d) product += static_cast<double>(map.projection[f * dim + d]) * x[d];
    row.phi.push_back(std::sqrt(scale) * product);
  }
  const double largest = *std::max_element(row.phi.begin(), row.phi.end());
  for (double& phi : row.phi) phi = std::exp(std::max(phi - largest, kLowestFeature));
  row.log_scale = largest - scale * dot(x, x, dim) / 2;
  return row;
}

std::vector<FeatureRow> features_of(const LinearHead& h, const Rows<const double>& x) {
  std::vector<FeatureRow> rows;
  for (Index i = 0; i < x.count; ++i) {
    rows.push_back(h.map.projection == nullptr ? elu_features(x.row(i), x.dim)
                                               : random_features(h.map, x.row(i), x.dim, h.scale));
  }
  return rows;
}

// dx of a row, given dphi, the gradient of FeatureRow::phi. The scale of a query's row cancels out of the output.
void add_feature_gradient(const LinearHead& h, const double* x, const FeatureRow& row, const std::vector<double>& dphi,
                          bool key, double* dx) {
  const Index dim = h.k.dim;
  if (h.map.projection == nullptr) {
    for (Index d = 0; d < dim; ++d) dx[d] += at(dphi, d) * std::min(1.0, at(row.phi, d));
    return;
  }
  for (std::size_t f = 0; f < dphi.size(); ++f) {
    const double u = dphi[f] * row.phi[f];  // the gradient of phi's logarithm, w . y - |y|^2 / 2
    for (Index d = 0; d < dim; ++d) {
      dx[d] += u * std::sqrt(h.scale) * static_cast<double>(h.map.projection[static_cast<Index>(f) * dim + d]);
      if (key) dx[d] -= u * h.scale * x[d];
    }
  }
}

// How many keys query i sees, the first ones.
Index keys_seen(const LinearHead& h, Index i) {
  return h.causal ? std::max<Index>(0, i + h.k.count - h.q.count + 1) : h.k.count;
}

double top_of(const std::vector<FeatureRow>& keys, Index count, double start) {
  for (Index j = 0; j < count; ++j) start = std::fmax(start, at(keys, j).log_scale);
  return start;
}

double log_scale_of_state(const double* state, Index features, Index dim) {
  return state == nullptr || state[dim] == 0 ? kNoKeys : state[features * (dim + 1)] * std::numbers::ln2;
}

// Weights of one query and its denominator, both over exp(top).
struct RowWeights {
  std::vector<double> weight;
  double sum = 0;
};

RowWeights weights_of(const FeatureRow& query, const std::vector<FeatureRow>& keys, Index seen, double top) {
  RowWeights w;
  for (Index j = 0; j < seen; ++j) {
    const FeatureRow& key = at(keys, j);
    w.weight.push_back(dot(query.phi.data(), key.phi.data(), std::ssize(key.phi)) * std::exp(key.log_scale - top));
    w.sum += w.weight.back();
  }
  return w;
}

// after = before + the keys given.
void add_to_state(const std::vector<FeatureRow>& keys, const Rows<const double>& v, const double* before,
                  double before_scale, double* after, Index features) {
  const Index row = v.dim + 1;
  const double top = top_of(keys, v.count, before_scale);
  for (Index f = 0; f < features; ++f) {
    for (Index d = 0; d < row; ++d) {
      double sum = before_scale == kNoKeys ? 0 : before[f * row + d] * std::exp(before_scale - top);
      for (Index j = 0; j < v.count; ++j) {
        const FeatureRow& key = at(keys, j);
        sum += at(key.phi, f) * std::exp(key.log_scale - top) * (d < v.dim ? v.row(j)[d] : 1);
      }
      after[f * row + d] = sum;
    }
  }
  std::fill_n(after + features * row, row, 0.0);
  if (top != kNoKeys) after[features * row] = top / std::numbers::ln2;
}

}  // namespace

void linear_forward(const LinearHead& h, const double* before, double* after, const Rows<double>& o) {
  const Index features = h.map.count(h.k.dim), dim = h.v.dim;
  const std::vector<FeatureRow> queries = features_of(h, h.q), keys = features_of(h, h.k);
  const double before_scale = log_scale_of_state(before, features, dim);
  for (Index i = 0; i < h.q.count; ++i) {
    const FeatureRow& query = at(queries, i);
    const Index seen = keys_seen(h, i);
    const double top = top_of(keys, seen, before_scale);
    const RowWeights w = weights_of(query, keys, seen, top);
    std::vector<double> sums(static_cast<std::size_t>(dim) + 1);  // the numerator, then the denominator
    for (Index f = 0; before_scale != kNoKeys && f < features; ++f) {
      add_scaled(sums.data(), at(query.phi, f) * std::exp(before_scale - top), before + f * (dim + 1), dim + 1);
    }
    sums.back() += w.sum;
    for (Index j = 0; j < seen; ++j) add_scaled(sums.data(), at(w.weight, j), h.v.row(j), dim);
    for (Index d = 0; d < dim; ++d) o.row(i)[d] = sums.back() == 0 ? 0 : at(sums, d) / sums.back();
  }
  if (after != nullptr) add_to_state(keys, h.v, before, before_scale, after, features);
}

void linear_backward(const LinearHead& h, const Rows<const double>& dout, const Rows<double>& dq,
                     const Rows<double>& dk, const Rows<double>& dv) {
  const auto features = static_cast<std::size_t>(h.map.count(h.k.dim));
  const Index dim = h.v.dim;
  const std::vector<FeatureRow> queries = features_of(h, h.q), keys = features_of(h, h.k);
  std::vector<std::vector<double>> dkeys(keys.size(), std::vector<double>(features));
  for (Index i = 0; i < h.q.count; ++i) {
    const FeatureRow& query = at(queries, i);
    const Index seen = keys_seen(h, i);
    const double top = top_of(keys, seen, kNoKeys);
    const RowWeights w = weights_of(query, keys, seen, top);
    const double* gradient = dout.row(i);
    double mean = 0;  // dout . o
    for (Index j = 0; j < seen; ++j) mean += at(w.weight, j) / w.sum * dot(gradient, h.v.row(j), dim);
    std::vector<double> dquery(features);
    for (Index j = 0; j < seen; ++j) {
      const FeatureRow& key = at(keys, j);
      const double dweight = (dot(gradient, h.v.row(j), dim) - mean) / w.sum * std::exp(key.log_scale - top);
      add_scaled(dquery.data(), dweight, key.phi.data(), std::ssize(key.phi));
      add_scaled(at(dkeys, j).data(), dweight, query.phi.data(), std::ssize(query.phi));
      add_scaled(dv.row(j), at(w.weight, j) / w.sum, gradient, dim);
    }
    std::fill_n(dq.row(i), h.q.dim, 0.0);
    add_feature_gradient(h, h.q.row(i), query, dquery, false, dq.row(i));
  }
  for (Index j = 0; j < h.k.count; ++j) {
    add_feature_gradient(h, h.k.row(j), at(keys, j), at(dkeys, j), true, dk.row(j));
  }
}

}  // namespace hsattn::reference
