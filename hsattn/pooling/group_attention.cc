// Pooler::kAttentionPaper: multi-head attention among the children of a node, mean, LayerNorm; keys and values alike.
//
// With x_j the children, c_j their shares of the node's tokens and A_ij head h's attention of child i to child j:
//   a_j = sum_i c_i A_ij      u_h = sum_j a_j x_j      node = LayerNorm(W_o [W_v,h u_h for all h])
// since the mean over i and W_v are linear and may change places: W_v is applied once for a node, not for each child.
#include <cmath>
#include <limits>

#include "hsattn/pooling/part.h"
#include "hsattn/pooling/product.h"

namespace hsattn::pooling {
namespace {

constexpr Index kBatchRows = 64;  // children that go through a product at once

// Matrices of a batch of nodes: rows of children, then of nodes.
struct Batch {
  Index first = 0, nodes = 0, children = 0;  // first node of the batch; the children are neighbours
  const float* x = nullptr;                  // [children] rows, `width` apart
  std::vector<float> q, k;                   // [children, dim]
  std::vector<float> attention;              // [nodes, heads, fan out, fan out]
  std::vector<float> weights;                // [children, heads]: a
  std::vector<float> mixed;                  // [nodes, heads, dim]: u
  std::vector<float> joined, normal;         // [nodes, dim]: W_v u; what LayerNorm makes before factor and offset
  std::vector<float> inverse_deviation;      // [nodes]
};

void resize_zero(std::vector<float>& x, Index count) { x.assign(static_cast<std::size_t>(count), 0.0F); }

class GroupAttention final : public Rule {
 public:
  GroupAttention(const float* parameters, Index dim, Index block)
      : Rule(dim),
        block_(block),
        heads_(group_heads(dim)),
        head_dim_(dim / heads_),
        scale_(1 / std::sqrt(static_cast<float>(head_dim_))),
        parameters_(parameters, parameters + pooler_rows(Pooler::kAttentionPaper, dim) * dim) {
    for (Index m = 0; m < 4; ++m) {
      transposed_[m].resize(static_cast<std::size_t>(dim * dim));
      for (Index o = 0; o < dim; ++o) {
        for (Index i = 0; i < dim; ++i) {
          transposed_[m][static_cast<std::size_t>(i * dim + o)] = matrix(static_cast<Which>(m))[o * dim + i];
        }
      }
    }
  }

  bool by_pairs() const override { return false; }

  void pool(const Step& step) const override {
    const Index most = nodes_of_batch(step), count = groups(step);
    Batch batch;
    for (Index first = 0; first < count; first += most) {
      for (const Index side : {Index{0}, padded_dim()}) {
        compute(step, first, std::min(most, count - first), side, batch);
        write(step, batch, side);
      }
    }
    if (count == step.above.count) return;
    std::copy_n(step.below.rows + step.first(count) * width(), width(), step.above.rows + count * width());
  }

  // Runs of nodes with a gradient alone: what other nodes hold touches nothing.
  void pool_backward(const Step& step, float* parameters) const override {
    const Index most = nodes_of_batch(step), count = groups(step);
    Batch batch;
    for (const Index side : {Index{0}, padded_dim()}) {
      const auto has_gradient = [&](Index i) { return !all_zero(step.above.gradients + i * width() + side, dim()); };
      for (Index first = 0, end = 0; first < count; first = end) {
        for (end = first; end < std::min(count, first + most) && has_gradient(end);) ++end;
        if (end == first) {
          ++end;
          continue;
        }
        compute(step, first, end - first, side, batch);
        batch_backward(step, batch, side, parameters);
      }
    }
    if (count == step.above.count) return;
    const float* gradient = step.above.gradients + count * width();
    float* to = step.below.gradients + step.first(count) * width();
    for (Index c = 0; c < width(); ++c) to[c] += gradient[c];
  }

 private:
  enum Which { kQuery, kKey, kValue, kOut };

  const float* row(Index i) const { return parameters_.data() + i * dim(); }
  const float* matrix(Which which) const { return row(which * dim()); }
  Matrix transposed(Which which) const { return {transposed_[which].data(), dim()}; }

  // Nodes that are groups: above the blocks the last may have a single child, the same tokens, and is that child.
  Index groups(const Step& step) const {
    const bool passed_up = step.above.size > block_ && step.above.count > 0 && step.count(step.above.count - 1) == 1;
    return step.above.count - (passed_up ? 1 : 0);
  }
  static Index nodes_of_batch(const Step& step) { return std::max<Index>(1, kBatchRows / step.fan_out()); }

  void compute(const Step& step, Index first, Index nodes, Index side, Batch& b) const;
  void attend(const Step& step, Index node, Batch& b) const;
  void normalise(Batch& b) const;
  void write(const Step& step, const Batch& b, Index side) const;
  void batch_backward(const Step& step, const Batch& b, Index side, float* parameters) const;
  // From the gradients of a node's mixed rows to those of its children, and of their queries and keys.
  void attend_backward(const Step& step, Index node, const Batch& b, const float* dmixed, float* dx, float* dq,
                       float* dk) const;

  Index block_, heads_, head_dim_;
  float scale_;
  std::vector<float> parameters_;
  std::vector<float> transposed_[4];
};

void GroupAttention::compute(const Step& step, Index first, Index nodes, Index side, Batch& b) const {
  const Index d = dim(), fan_out = step.fan_out();
  b.first = first;
  b.nodes = nodes;
  b.children = std::min(step.below.count, step.first(first + nodes)) - step.first(first);
  b.x = step.below.rows + step.first(first) * width() + side;
  resize_zero(b.q, b.children * d);
  resize_zero(b.k, b.children * d);
  resize_zero(b.attention, nodes * heads_ * fan_out * fan_out);
  resize_zero(b.weights, b.children * heads_);
  resize_zero(b.mixed, nodes * heads_ * d);
  resize_zero(b.joined, nodes * d);
  resize_zero(b.normal, nodes * d);
  resize_zero(b.inverse_deviation, nodes);
  add_product(b.children, d, d, {b.x, width()}, transposed(kQuery), b.q.data(), d);
  add_product(b.children, d, d, {b.x, width()}, transposed(kKey), b.k.data(), d);
  for (Index i = 0; i < nodes; ++i) attend(step, i, b);
  for (Index h = 0; h < heads_; ++h) {
    add_product(nodes, head_dim_, d, {b.mixed.data() + h * d, heads_ * d}, {transposed(kValue).data + h * head_dim_, d},
                b.joined.data() + h * head_dim_, d);
  }
  add_product(nodes, d, d, {b.joined.data(), d}, transposed(kOut), b.normal.data(), d);
  normalise(b);
}

void GroupAttention::attend(const Step& step, Index node, Batch& b) const {
  const Index d = dim(), fan_out = step.fan_out(), at = node * fan_out, count = step.count(b.first + node);
  const Index first = step.first(b.first + node);
  const auto total = static_cast<float>(step.above.tokens_behind(b.first + node, step.tokens));
  float tokens[64];
  for (Index j = 0; j < count; ++j) tokens[j] = static_cast<float>(step.below.tokens_behind(first + j, step.tokens));
  for (Index h = 0; h < heads_; ++h) {
    float* mixed = b.mixed.data() + (node * heads_ + h) * d;
    for (Index i = 0; i < count; ++i) {
      const float* q = b.q.data() + (at + i) * d + h * head_dim_;
      float* p = b.attention.data() + ((node * heads_ + h) * fan_out + i) * fan_out;
      float largest = -std::numeric_limits<float>::infinity(), sum = 0;
      for (Index j = 0; j < count; ++j) {
        const float* k = b.k.data() + (at + j) * d + h * head_dim_;
        float score = 0;
        for (Index c = 0; c < head_dim_; ++c) score += q[c] * k[c];
        p[j] = score * scale_;
        largest = std::max(largest, p[j]);
      }
      // More tokens weigh more; complete children weigh the same.
      for (Index j = 0; j < count; ++j) sum += p[j] = tokens[j] * std::exp(p[j] - largest);
      for (Index j = 0; j < count; ++j) {
        p[j] /= sum;
        b.weights[static_cast<std::size_t>((at + j) * heads_ + h)] += tokens[i] / total * p[j];
      }
    }
    for (Index j = 0; j < count; ++j) {
      const float weight = b.weights[static_cast<std::size_t>((at + j) * heads_ + h)];
      const float* x = b.x + (at + j) * width();
      for (Index c = 0; c < d; ++c) mixed[c] += weight * x[c];
    }
  }
}

void GroupAttention::normalise(Batch& b) const {
  const Index d = dim();
  for (Index i = 0; i < b.nodes; ++i) {
    float* x = b.normal.data() + i * d;
    float mean = 0, variance = 0;
    for (Index c = 0; c < d; ++c) mean += x[c];
    mean /= static_cast<float>(d);
    for (Index c = 0; c < d; ++c) variance += (x[c] - mean) * (x[c] - mean);
    const float inverse = 1 / std::sqrt(variance / static_cast<float>(d) + static_cast<float>(kLayerNormEpsilon));
    for (Index c = 0; c < d; ++c) x[c] = (x[c] - mean) * inverse;
    b.inverse_deviation[static_cast<std::size_t>(i)] = inverse;
  }
}

void GroupAttention::write(const Step& step, const Batch& b, Index side) const {
  const float *factor = row(4 * dim()), *offset = row(4 * dim() + 1);
  for (Index i = 0; i < b.nodes; ++i) {
    float* out = step.above.rows + (b.first + i) * width() + side;
    const float* normal = b.normal.data() + i * dim();
    for (Index c = 0; c < dim(); ++c) out[c] = normal[c] * factor[c] + offset[c];
    std::fill(out + dim(), out + padded_dim(), 0.0F);
  }
}

void GroupAttention::batch_backward(const Step& step, const Batch& b, Index side, float* parameters) const {
  const Index d = dim();
  const float* factor = row(4 * d);
  float* dfactor = parameters + 4 * d * d;
  float* doffset = dfactor + d;
  std::vector<float> dsum(static_cast<std::size_t>(b.nodes * d)), djoined(dsum.size());  // of W_o joined; of joined
  for (Index i = 0; i < b.nodes; ++i) {
    const float* gradient = step.above.gradients + (b.first + i) * width() + side;
    const float* normal = b.normal.data() + i * d;
    float mean = 0, slope = 0;
    for (Index c = 0; c < d; ++c) {
      dfactor[c] += gradient[c] * normal[c];
      doffset[c] += gradient[c];
      mean += gradient[c] * factor[c];
      slope += gradient[c] * factor[c] * normal[c];
    }
    mean /= static_cast<float>(d);
    slope /= static_cast<float>(d);
    const float inverse = b.inverse_deviation[static_cast<std::size_t>(i)];
    float* out = dsum.data() + i * d;
    for (Index c = 0; c < d; ++c) out[c] = inverse * (gradient[c] * factor[c] - mean - normal[c] * slope);
  }
  add_product(b.nodes, d, d, {dsum.data(), d}, {matrix(kOut), d}, djoined.data(), d);
  add_product(d, d, b.nodes, {dsum.data(), 1, d}, {b.joined.data(), d}, parameters + kOut * d * d, d);

  std::vector<float> dmixed(b.mixed.size(), 0.0F);
  for (Index h = 0; h < heads_; ++h) {
    const float* of_head = djoined.data() + h * head_dim_;
    add_product(b.nodes, d, head_dim_, {of_head, d}, {matrix(kValue) + h * head_dim_ * d, d}, dmixed.data() + h * d,
                heads_ * d);
    add_product(head_dim_, d, b.nodes, {of_head, 1, d}, {b.mixed.data() + h * d, heads_ * d},
                parameters + (kValue * d + h * head_dim_) * d, d);
  }
  float* dx = step.below.gradients + step.first(b.first) * width() + side;
  std::vector<float> dq(b.q.size(), 0.0F), dk(dq);
  for (Index i = 0; i < b.nodes; ++i) {
    attend_backward(step, i, b, dmixed.data() + i * heads_ * d, dx, dq.data(), dk.data());
  }
  add_product(b.children, d, d, {dq.data(), d}, {matrix(kQuery), d}, dx, width());
  add_product(b.children, d, d, {dk.data(), d}, {matrix(kKey), d}, dx, width());
  add_product(d, d, b.children, {dq.data(), 1, d}, {b.x, width()}, parameters + kQuery * d * d, d);
  add_product(d, d, b.children, {dk.data(), 1, d}, {b.x, width()}, parameters + kKey * d * d, d);
}

void GroupAttention::attend_backward(const Step& step, Index node, const Batch& b, const float* dmixed, float* dx,
                                     float* dq, float* dk) const {
  const Index d = dim(), fan_out = step.fan_out(), at = node * fan_out, count = step.count(b.first + node);
  const Index first = step.first(b.first + node);
  const auto total = static_cast<float>(step.above.tokens_behind(b.first + node, step.tokens));
  for (Index h = 0; h < heads_; ++h) {
    const float* gradient = dmixed + h * d;
    float dweights[64];
    for (Index j = 0; j < count; ++j) {
      const float weight = b.weights[static_cast<std::size_t>((at + j) * heads_ + h)];
      const float* x = b.x + (at + j) * width();
      float* to = dx + (at + j) * width();
      float sum = 0;
      for (Index c = 0; c < d; ++c) {
        sum += gradient[c] * x[c];
        to[c] += weight * gradient[c];
      }
      dweights[j] = sum;
    }
    for (Index i = 0; i < count; ++i) {
      const float* p = b.attention.data() + ((node * heads_ + h) * fan_out + i) * fan_out;
      const float share = static_cast<float>(step.below.tokens_behind(first + i, step.tokens)) / total;
      float mean = 0;
      for (Index j = 0; j < count; ++j) mean += p[j] * dweights[j];
      const Index of_head = h * head_dim_;
      for (Index j = 0; j < count; ++j) {
        const float slope = scale_ * share * p[j] * (dweights[j] - mean);
        const float* q = b.q.data() + (at + i) * d + of_head;
        const float* k = b.k.data() + (at + j) * d + of_head;
        for (Index c = 0; c < head_dim_; ++c) {
          dq[(at + i) * d + of_head + c] += slope * k[c];
          dk[(at + j) * d + of_head + c] += slope * q[c];
        }
      }
    }
  }
}

}  // namespace

std::unique_ptr<Rule> group_attention(const float* parameters, Index dim, Index block) {
  return std::make_unique<GroupAttention>(parameters, dim, block);
}

}  // namespace hsattn::pooling
