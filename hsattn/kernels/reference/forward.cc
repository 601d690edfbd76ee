#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "hsattn/kernels/reference/reference.h"

namespace hsattn::reference {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// The mean of the values of a part of a node, whatever the pyramid pools.
std::vector<double> mean_of_part(const Matrix& values, Index part, Index size) {
  std::vector<double> mean(static_cast<std::size_t>(values.dim), 0.0);
  const Index begin = part * size, end = std::min(values.count, begin + size);
  for (Index t = begin; t < end; ++t) {
    for (Index c = 0; c < values.dim; ++c) mean[c] += values.row(t)[c] / static_cast<double>(end - begin);
  }
  return mean;
}

// Adds the tail of query head `g` of a group to a row whose softmax is `softmax`. A mean that is not finite counts
// nothing.
void add_tail(const std::vector<Rejected>& tail, Index g, const PlanShape& shape, const Matrix& values,
              RowSoftmax& softmax, std::span<double> o) {
  std::vector<double> logs = {softmax.lse};
  std::vector<std::vector<double>> means;
  for (const Rejected& r : tail) {
    std::vector<double> mean = mean_of_part(values, r.part, shape.part());
    const bool finite = std::all_of(mean.begin(), mean.end(), [](double x) { return std::isfinite(x); });
    logs.push_back(finite ? r.log_mass[g] + std::log(shape.tail) : kMinusInfinity);
    if (!finite) std::fill(mean.begin(), mean.end(), 0.0);
    means.push_back(std::move(mean));
  }
  const double lse = log_sum_exp(logs);
  if (lse == kMinusInfinity) return;
  for (double& x : o) x *= std::exp(softmax.lse - lse);
  for (std::size_t j = 0; j < means.size(); ++j) {
    for (std::size_t c = 0; c < o.size(); ++c) o[c] += std::exp(logs[j + 1] - lse) * means[j][c];
  }
  softmax.lse = lse;
}

// o and lse of one query head.
void forward_head(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionOutputs& out,
                  const Pyramid& keys, const Pyramid& values, Index batch, Index head, const Tails* tails) {
  const Index group = in.q.heads / in.k.heads, kv_head = head / group;
  const Matrix q = load_head(in.q, batch, head);
  Matrix o(q.count, q.dim);
  for (Index i = 0; i < q.count; ++i) {
    const std::vector<Node> seen = seen_by(plan, batch, kv_head, i);
    RowSoftmax softmax = softmax_of_row(q.row(i), scale, seen, keys);
    if (softmax.lse != kMinusInfinity) {
      for (std::size_t j = 0; j < seen.size(); ++j) {
        const std::span<const double> v = values.row(seen[j]);
        for (Index c = 0; c < q.dim; ++c) o.row(i)[c] += softmax.weight[j] * v[c];
      }
    }
    if (tails != nullptr) {
      const std::vector<Rejected>& tail = (*tails)[(batch * in.k.heads + kv_head) * q.count + i];
      add_tail(tail, head % group, plan.shape, values.tokens, softmax, o.row(i));
    }
    const Index at = (batch * in.q.heads + head) * q.count + i;
    if (out.lse != nullptr && lse_type(in.q.dtype) == DType::kFloat32) {
      static_cast<float*>(out.lse)[at] = static_cast<float>(softmax.lse);
    } else if (out.lse != nullptr) {
      static_cast<double*>(out.lse)[at] = softmax.lse;
    }
  }
  store_head(o, out.o, batch, head);
}

}  // namespace

double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t c = 0; c < a.size(); ++c) sum += a[c] * b[c];
  return sum;
}

double log_sum_exp(std::span<const double> values) {
  if (values.empty()) return kMinusInfinity;
  const double largest = *std::max_element(values.begin(), values.end());
  if (largest == kMinusInfinity) return kMinusInfinity;
  double sum = 0;
  for (double x : values) sum += std::exp(x - largest);
  return largest + std::log(sum);
}

std::vector<Node> seen_by(const PlanView& plan, Index batch, Index kv_head, Index query) {
  const PlanShape& shape = plan.shape;
  const Index position = shape.position(query);
  std::vector<Node> seen;
  const auto add_tokens = [&seen](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) seen.push_back({Node::kToken, t, 1});
  };
  const Range near = shape.near(position);
  add_tokens(near.begin, near.end);
  const std::span<const std::int32_t> list = plan.list(batch, kv_head, query);
  for (Index b : list) add_tokens(b * shape.block, std::min((b + 1) * shape.block, shape.keys));
  if (shape.far_field) {
    std::vector<FarNode> far;
    far_field_of(shape, position, list, far);
    for (const FarNode& node : far) seen.push_back({node.level, node.index, node.tokens});
  }
  return seen;
}

RowSoftmax softmax_of_row(std::span<const double> q, double scale, const std::vector<Node>& seen, const Pyramid& keys) {
  RowSoftmax softmax;
  softmax.weight.resize(seen.size());
  for (std::size_t j = 0; j < seen.size(); ++j) {
    softmax.weight[j] = scale * dot(q, keys.row(seen[j])) + std::log(static_cast<double>(seen[j].tokens));
  }
  softmax.lse = log_sum_exp(softmax.weight);
  for (double& w : softmax.weight) w = softmax.lse == kMinusInfinity ? 0.0 : std::exp(w - softmax.lse);
  return softmax;
}

HeadPyramids pyramids_of(const AttentionInputs& in, const PlanShape& shape, Index batch, Index kv_head) {
  Matrix k = load_head(in.k, batch, kv_head), v = load_head(in.v, batch, kv_head);
  if (!in.pooled) {
    return {make_pyramid(std::move(k), shape.node, shape.pooling),
            make_pyramid(std::move(v), shape.node, shape.pooling)};
  }
  return {pyramid_of(std::move(k), shape.node, load_head(in.pooled->k, batch, kv_head)),
          pyramid_of(std::move(v), shape.node, load_head(in.pooled->v, batch, kv_head))};
}

void forward(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionOutputs& out,
             Executor& executor, const Tails* tails) {
  const Index group = in.k.heads == 0 ? 0 : in.q.heads / in.k.heads;
  executor.run(in.k.batch * in.k.heads, [&](Index task) {
    const Index batch = task / in.k.heads, kv_head = task % in.k.heads;
    const auto [keys, values] = pyramids_of(in, plan.shape, batch, kv_head);
    for (Index g = 0; g < group; ++g) {
      forward_head(in, scale, plan, out, keys, values, batch, kv_head * group + g, tails);
    }
  });
}

}  // namespace hsattn::reference
