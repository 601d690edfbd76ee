#include "support/plain.h"

#include <algorithm>
#include <cmath>

namespace hsattn::testing {
namespace {

using Vector = std::vector<float>;

// Tokens [begin, end) that a row attends as one key: pooled. A single token is its own mean and maximum.
std::vector<Range> keys_of_row(const PlanView& plan, Index batch, Index kv_head, Index query) {
  const PlanShape& s = plan.shape;
  const Range near = s.near(s.position(query));
  std::vector<Range> keys;
  for (Index t = near.begin; t < near.end; ++t) keys.push_back({t, t + 1});
  for (const Index b : plan.list(batch, kv_head, query)) {
    for (Index t = b * s.block; t < std::min(s.keys, (b + 1) * s.block); ++t) keys.push_back({t, t + 1});
  }
  std::vector<FarNode> far;
  far_field_of(s, s.position(query), plan.list(batch, kv_head, query), far);
  for (const FarNode& node : far) {
    const Index begin = (node.index << node.level) * s.block;
    keys.push_back({begin, begin + node.tokens});
  }
  std::sort(keys.begin(), keys.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
  return keys;
}

// The token of a range at which column c is largest, the first if there are several.
Index largest_at(const Tensor<float>& x, Index batch, Index head, Range tokens, Index c) {
  Index best = tokens.begin;
  for (Index t = tokens.begin; t < tokens.end; ++t) {
    if (x.row(batch, head, t)[c] > x.row(batch, head, best)[c]) best = t;
  }
  return best;
}

Vector pooled(const Tensor<float>& x, Index batch, Index head, Range tokens, Pooling pooling) {
  Vector mean(static_cast<std::size_t>(x.dim), 0.0F);
  if (pooling == Pooling::kMax) {
    for (Index c = 0; c < x.dim; ++c) mean[c] = x.row(batch, head, largest_at(x, batch, head, tokens, c))[c];
    return mean;
  }
  for (Index t = tokens.begin; t < tokens.end; ++t) {
    for (Index c = 0; c < x.dim; ++c) mean[c] += x.row(batch, head, t)[c];
  }
  for (float& m : mean) m = as_stored(m * (1.0F / static_cast<float>(tokens.size())));
  return mean;
}

// The gradient of pooled(): every token's share of the mean, or all of it to the token that was largest.
void add_to_tokens(Tensor<float>& gradient, const Tensor<float>& x, Index batch, Index head, Range tokens,
                   Pooling pooling, float factor, const float* from) {
  if (pooling == Pooling::kMax) {
    for (Index c = 0; c < x.dim; ++c) {
      gradient.row(batch, head, largest_at(x, batch, head, tokens, c))[c] += factor * from[c];
    }
    return;
  }
  const float share = 1.0F / static_cast<float>(tokens.size());
  for (Index t = tokens.begin; t < tokens.end; ++t)
    plain_add(gradient.row(batch, head, t), factor * share, from, x.dim);
}

// Adds one query's part to all gradients.
void attend_plan(const Problem& p, const Tensors<float>& in, const PlanView& plan, Index b, Index head, Index query,
                 Solution<float>& out) {
  const Index kv_head = head / p.group();
  const std::vector<Range> keys = keys_of_row(plan, b, kv_head, query);
  std::vector<Vector> k, v;
  AttendedRows rows;
  for (const Range& tokens : keys) {
    k.push_back(pooled(in.k, b, kv_head, tokens, plan.shape.pooling));
    v.push_back(pooled(in.v, b, kv_head, tokens, plan.shape.pooling));
    rows.bias.push_back(std::log(static_cast<float>(tokens.size())));
  }
  for (const Vector& key : k) rows.keys.push_back(key.data());
  for (const Vector& value : v) rows.values.push_back(value.data());
  const float *q = in.q.row(b, head, query), *dout = in.dout.row(b, head, query);
  const RowGradients gradients =
      plain_row(rows, q, dout, p.dim, static_cast<float>(p.scale_used()), out.o.row(b, head, query),
                &out.lse[(b * p.heads + head) * p.queries + query], out.dq.row(b, head, query));
  for (std::size_t j = 0; j < keys.size(); ++j) {
    add_to_tokens(out.dk, in.k, b, kv_head, keys[j], plan.shape.pooling, gradients.of_key[j], q);
    add_to_tokens(out.dv, in.v, b, kv_head, keys[j], plan.shape.pooling, gradients.of_value[j], dout);
  }
}

}  // namespace

float plain_dot(const float* a, const float* b, Index dim) {
  float sum = 0;
  for (Index c = 0; c < dim; ++c) sum += a[c] * b[c];
  return sum;
}

void plain_add(float* to, float factor, const float* from, Index dim) {
  for (Index c = 0; c < dim; ++c) to[c] += factor * from[c];
}

double error_allowed(const Tensor<float>& plain, const Tensor<double>& exact) {
  const double largest = largest_of(exact);
  return 2 * max_error(plain, exact) + std::max(rounding_floor(largest), 1e-5 * largest);
}

RowGradients plain_row(const AttendedRows& rows, const float* q, const float* dout, Index dim, float scale, float* o,
                       float* lse, float* dq) {
  const std::size_t count = rows.keys.size();
  const auto rounded = [&](float x) { return rows.in_float32 ? x : as_stored(x); };
  RowGradients out{Vector(count), Vector(count)};
  Vector& weight = out.of_value;
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
  for (std::size_t j = 0; j < count; ++j) {
    weight[j] = rounded(rounded(plain_dot(q, rows.keys[j], dim)) * scale + rows.bias[j]);
    largest = std::max(largest, weight[j]);
  }
  for (float& w : weight) sum += w = std::exp(w - largest);
  std::fill_n(o, dim, 0.0F);
  for (std::size_t j = 0; j < count; ++j) plain_add(o, weight[j] = rounded(weight[j] / sum), rows.values[j], dim);
  for (Index c = 0; c < dim; ++c) o[c] = rounded(o[c]);
  *lse = largest + std::log(sum);
  const float dout_o = plain_dot(dout, o, dim);
  for (std::size_t j = 0; j < count; ++j) {
    const float dp = rounded(plain_dot(dout, rows.values[j], dim));
    out.of_key[j] = rounded(weight[j] * (dp - dout_o)) * scale;
    plain_add(dq, out.of_key[j], rows.keys[j], dim);
  }
  return out;
}

Solution<float> plain_solution(const Problem& p, const Tensors<float>& in, const PlanView& plan) {
  Solution<float> out;
  out.o = Tensor<float>(p.batch, p.heads, p.queries, p.dim);
  out.dq = out.o;
  out.dk = Tensor<float>(p.batch, p.kv_heads, p.keys, p.dim);
  out.dv = out.dk;
  for (Tensor<float>* tensor : {&out.o, &out.dq, &out.dk, &out.dv}) {
    std::fill(tensor->data.begin(), tensor->data.end(), 0.0F);
  }
  out.lse.resize(static_cast<std::size_t>(p.batch * p.heads * p.queries));
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.heads; ++h) {
      for (Index i = 0; i < p.queries; ++i) attend_plan(p, in, plan, b, h, i, out);
    }
  }
  for (Tensor<float>* tensor : {&out.dq, &out.dk, &out.dv}) {
    tensor->for_each([](float& x, Index, Index, Index, Index) { x = as_stored(x); });
  }
  return out;
}

}  // namespace hsattn::testing
