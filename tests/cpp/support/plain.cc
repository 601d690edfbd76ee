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

float dot(const float* a, const float* b, Index dim) {
  float sum = 0;
  for (Index c = 0; c < dim; ++c) sum += a[c] * b[c];
  return sum;
}

void add(float* to, float factor, const float* from, Index dim) {
  for (Index c = 0; c < dim; ++c) to[c] += factor * from[c];
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
  for (Index t = tokens.begin; t < tokens.end; ++t) add(gradient.row(batch, head, t), factor * share, from, x.dim);
}

void plain_row(const Problem& p, const Tensors<float>& in, const PlanView& plan, Index b, Index head, Index query,
               Solution<float>& out) {
  const Index kv_head = head / p.group();
  const auto scale = static_cast<float>(p.scale_used());
  const float* q = in.q.row(b, head, query);
  const std::vector<Range> keys = keys_of_row(plan, b, kv_head, query);
  std::vector<Vector> k, v;
  Vector weight;
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
  for (const Range& tokens : keys) {
    k.push_back(pooled(in.k, b, kv_head, tokens, plan.shape.pooling));
    v.push_back(pooled(in.v, b, kv_head, tokens, plan.shape.pooling));
    const float score = as_stored(dot(q, k.back().data(), p.dim)) * scale;
    weight.push_back(as_stored(score + std::log(static_cast<float>(tokens.size()))));
    largest = std::max(largest, weight.back());
  }
  for (float& w : weight) sum += w = std::exp(w - largest);
  float* o = out.o.row(b, head, query);
  for (std::size_t j = 0; j < keys.size(); ++j) add(o, weight[j] = as_stored(weight[j] / sum), v[j].data(), p.dim);
  for (Index c = 0; c < p.dim; ++c) o[c] = as_stored(o[c]);
  out.lse[(b * p.heads + head) * p.queries + query] = largest + std::log(sum);

  const float* dout = in.dout.row(b, head, query);
  const float dout_o = dot(dout, o, p.dim);
  for (std::size_t j = 0; j < keys.size(); ++j) {
    const float dp = as_stored(dot(dout, v[j].data(), p.dim));
    const float ds = as_stored(weight[j] * (dp - dout_o)) * scale;
    add(out.dq.row(b, head, query), ds, k[j].data(), p.dim);
    add_to_tokens(out.dk, in.k, b, kv_head, keys[j], plan.shape.pooling, ds, q);
    add_to_tokens(out.dv, in.v, b, kv_head, keys[j], plan.shape.pooling, weight[j], dout);
  }
}

}  // namespace

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
      for (Index i = 0; i < p.queries; ++i) plain_row(p, in, plan, b, h, i, out);
    }
  }
  for (Tensor<float>* tensor : {&out.dq, &out.dk, &out.dv}) {
    tensor->for_each([](float& x, Index, Index, Index, Index) { x = as_stored(x); });
  }
  return out;
}

}  // namespace hsattn::testing
