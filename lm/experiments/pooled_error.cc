#include "lm/experiments/pooled_error.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace hsattn::lm {
namespace {

constexpr Index kExactPairs = 128;  // points among which all pairs are looked at

double distance(const double* a, const double* b, Index dim) {
  double sum = 0;
  for (Index i = 0; i < dim; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

std::vector<double> mean_of(const double* points, Index count, Index dim) {
  std::vector<double> mean(static_cast<std::size_t>(dim), 0.0);
  for (Index p = 0; p < count; ++p) {
    for (Index i = 0; i < dim; ++i)
      mean[static_cast<std::size_t>(i)] += points[p * dim + i] / static_cast<double>(count);
  }
  return mean;
}

// Of many points twice the radius around their mean, which is at least the diameter.
double diameter_of(const double* points, Index count, Index dim) {
  double widest = 0;
  if (count <= kExactPairs) {
    for (Index a = 0; a < count; ++a) {
      for (Index b = 0; b < a; ++b) widest = std::max(widest, distance(points + a * dim, points + b * dim, dim));
    }
    return widest;
  }
  const std::vector<double> middle = mean_of(points, count, dim);
  for (Index a = 0; a < count; ++a) widest = std::max(widest, distance(points + a * dim, middle.data(), dim));
  return 2 * widest;
}

// log of the sum of exponentials.
double log_sum(const std::vector<double>& x) {
  const double most = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const double value : x) sum += std::exp(value - most);
  return most + std::log(sum);
}

struct Node {
  double range = 0, diameter = 0;
  double log_true = 0, log_pooled = 0;  // masses before normalising
};

// sum_t weights[t] values[t]
std::vector<double> weighted(const std::vector<double>& weights, const std::vector<double>& values, Index dim) {
  std::vector<double> sum(static_cast<std::size_t>(dim), 0.0);
  for (std::size_t t = 0; t < weights.size(); ++t) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += weights[t] * values[t * sum.size() + i];
  }
  return sum;
}

std::vector<double> softmax(const std::vector<double>& scores) {
  const double all = log_sum(scores);
  std::vector<double> weights;
  for (const double s : scores) weights.push_back(std::exp(s - all));
  return weights;
}

// The largest shift of mass between two distributions of which one is the other times e^h, normalised, with h in [0, t]
// and h = 0 outside a set of mass p.
double largest_shift(double t, double p) {
  const double worst = 1 / (std::exp(t / 2) + 1), q = std::min(p, worst), grown = std::expm1(t);
  return q * (1 - q) * grown / (1 + q * grown);
}

}  // namespace

PooledError pooled_error(const PooledRow& row) {
  const std::size_t count = row.first.size() - 1;
  std::vector<Node> nodes(count);
  std::vector<double> means, true_logs(count), pooled_logs(count);
  PooledError result;
  for (std::size_t j = 0; j < count; ++j) {
    const Index begin = row.first[j], size = row.first[j + 1] - begin;
    const std::vector<double> scores(row.scores.begin() + begin, row.scores.begin() + begin + size);
    const double* values = row.values.data() + begin * row.dim;
    const auto [low, high] = std::minmax_element(scores.begin(), scores.end());
    double mean = 0;
    for (const double s : scores) mean += s / static_cast<double>(size);
    nodes[j].range = *high - *low;
    nodes[j].diameter = diameter_of(values, size, row.dim);
    true_logs[j] = log_sum(scores);
    pooled_logs[j] = mean + std::log(static_cast<double>(size));
    const std::vector<double> pooled = mean_of(values, size, row.dim);
    means.insert(means.end(), pooled.begin(), pooled.end());
    result.alpha = std::max(result.alpha, nodes[j].range);
  }
  const std::vector<double> true_mass = softmax(true_logs), pooled_mass = softmax(pooled_logs);
  double pooled_far = 0;
  for (std::size_t j = 0; j < count; ++j) {
    if (row.first[j + 1] - row.first[j] == 1) continue;
    result.mass += true_mass[j];
    pooled_far += pooled_mass[j];
    result.bound += true_mass[j] * nodes[j].diameter * std::tanh(nodes[j].range / 4);
  }
  const double t = result.alpha * result.alpha / 8;
  result.bound += diameter_of(means.data(), static_cast<Index>(count), row.dim) * largest_shift(t, pooled_far);
  const std::vector<double> exact = weighted(softmax(row.scores), row.values, row.dim);
  result.error = distance(exact.data(), weighted(pooled_mass, means, row.dim).data(), row.dim);
  result.diameter = diameter_of(row.values.data(), static_cast<Index>(row.scores.size()), row.dim);
  return result;
}

PooledRow random_row(Index number, Index seed) {
  std::mt19937_64 engine(static_cast<std::uint64_t>(seed * 1000003 + number));
  const auto uniform = [&](double low, double high) {
    return low + (high - low) * static_cast<double>(engine() >> 11) / 9007199254740992.0;
  };
  PooledRow row;
  const Index tokens = Index{16} << 2 * (number % 5);  // 16 to 4096
  row.dim = Index{1} << engine() % 6;
  const double range = std::exp(uniform(std::log(0.01), std::log(30))), between = uniform(0, 5);
  const bool follows = engine() % 2 == 0, growing = engine() % 2 == 0, two_values = engine() % 3 == 0;
  const Index singles = static_cast<Index>(uniform(0, static_cast<double>(tokens) / 2));
  row.first = {0};
  for (Index size = 2; row.first.back() < tokens;) {
    const Index begin = row.first.back();
    const bool single = tokens - begin <= singles;
    row.first.push_back(std::min(tokens, begin + (single ? 1 : size)));
    if (growing && engine() % 4 == 0) size = std::min<Index>(2 * size, 512);
  }
  for (std::size_t j = 0; j + 1 < row.first.size(); ++j) {
    const double base = between * uniform(-1, 1);
    for (Index t = row.first[j]; t < row.first[j + 1]; ++t) {
      const double place = two_values ? (engine() % 2 == 0 ? -0.5 : 0.5) : uniform(-0.5, 0.5);
      row.scores.push_back(base + range * place);
      for (Index i = 0; i < row.dim; ++i)
        row.values.push_back((follows ? place : 0) + (two_values && follows ? 0 : uniform(-1, 1)));
    }
  }
  return row;
}

}  // namespace hsattn::lm
