#include "support/plain_pooling.h"

#include <cmath>

#include "hsattn/base/math.h"
#include "hsattn/pooling/part.h"
#include "support/plain.h"

namespace hsattn::testing {
namespace {

using Vector = std::vector<float>;

Vector times(const float* matrix, const float* x, Index dim) {
  Vector y;
  for (Index row = 0; row < dim; ++row) y.push_back(plain_dot(matrix + row * dim, x, dim));
  return y;
}

void times_backward(const float* matrix, const float* x, const Vector& dy, Index dim, float* dx, float* dmatrix) {
  for (Index row = 0; row < dim; ++row) {
    plain_add(dx, dy[row], matrix + row * dim, dim);
    plain_add(dmatrix + row * dim, dy[row], x, dim);
  }
}

// One node of children with so many tokens behind each: attention among the children head by head, their mean, an
// output matrix, LayerNorm.
class PaperNode {
 public:
  PaperNode(const Vector& parameters, Index dim, std::vector<const float*> children, Vector tokens)
      : w_(parameters.data()),
        dim_(dim),
        head_(dim / pooling::group_heads(dim)),
        x_(std::move(children)),
        tokens_(std::move(tokens)) {
    for (const float* x : x_) {
      q_.push_back(times(matrix(0), x, dim));
      k_.push_back(times(matrix(1), x, dim));
      v_.push_back(times(matrix(2), x, dim));
    }
    for (const float t : tokens_) total_ += t;
    joined_.assign(static_cast<std::size_t>(dim), 0.0F);
    Vector none(joined_), mixed(joined_), dq(joined_);
    for (std::size_t i = 0; i < x_.size(); ++i) {
      for (Index at = 0; at < dim; at += head_) attend(i, at, none.data(), mixed.data(), dq.data());
      plain_add(joined_.data(), tokens_[i] / total_, mixed.data(), dim);
    }
    normal_ = times(matrix(3), joined_.data(), dim);
    float mean = 0, variance = 0;
    for (const float y : normal_) mean += y / static_cast<float>(dim);
    for (const float y : normal_) variance += (y - mean) * (y - mean) / static_cast<float>(dim);
    inverse_ = 1 / std::sqrt(variance + static_cast<float>(pooling::kLayerNormEpsilon));
    for (float& y : normal_) y = (y - mean) * inverse_;
  }

  void write(float* to) const {
    for (Index c = 0; c < dim_; ++c) to[c] = normal_[c] * matrix(4)[c] + matrix(4)[dim_ + c];
  }

  // Adds what `gradient` of the node gives to those of the children and of the parameters.
  void backward(const float* gradient, const std::vector<float*>& dx, float* dw) const {
    const auto dmatrix = [&](Index number) { return dw + number * dim_ * dim_; };
    Vector dy(joined_.size()), djoined(joined_.size());
    float mean = 0, slope = 0;
    for (Index c = 0; c < dim_; ++c) {
      dy[c] = gradient[c] * matrix(4)[c];
      mean += dy[c] / static_cast<float>(dim_);
      slope += dy[c] * normal_[c] / static_cast<float>(dim_);
      dmatrix(4)[c] += gradient[c] * normal_[c];
      dmatrix(4)[dim_ + c] += gradient[c];
    }
    for (Index c = 0; c < dim_; ++c) dy[c] = (dy[c] - mean - normal_[c] * slope) * inverse_;
    times_backward(matrix(3), joined_.data(), dy, dim_, djoined.data(), dmatrix(3));

    std::vector<Vector> dq(x_.size(), Vector(joined_.size())), dk = dq, dv = dq;
    Vector mixed(joined_.size());
    for (std::size_t i = 0; i < x_.size(); ++i) {
      Vector dmixed(joined_.size());
      plain_add(dmixed.data(), tokens_[i] / total_, djoined.data(), dim_);
      for (Index at = 0; at < dim_; at += head_) {
        const RowGradients row = attend(i, at, dmixed.data(), mixed.data(), dq[i].data());
        for (std::size_t j = 0; j < x_.size(); ++j) {
          plain_add(dk[j].data() + at, row.of_key[j], q_[i].data() + at, head_);
          plain_add(dv[j].data() + at, row.of_value[j], dmixed.data() + at, head_);
        }
      }
    }
    for (std::size_t i = 0; i < x_.size(); ++i) {
      for (const auto& [number, dy_of] : {std::pair{0, &dq[i]}, {1, &dk[i]}, {2, &dv[i]}})
        times_backward(matrix(number), x_[i], *dy_of, dim_, dx[i], dmatrix(number));
    }
  }

 private:
  const float* matrix(Index number) const { return w_ + number * dim_ * dim_; }

  // Child i's row of the head that begins at channel `at`.
  RowGradients attend(std::size_t i, Index at, const float* dmixed, float* mixed, float* dq) const {
    AttendedRows rows;
    rows.in_float32 = true;
    for (std::size_t j = 0; j < x_.size(); ++j) {
      rows.keys.push_back(k_[j].data() + at);
      rows.values.push_back(v_[j].data() + at);
      rows.bias.push_back(std::log(tokens_[j]));
    }
    float lse = 0;
    const float scale = 1 / std::sqrt(static_cast<float>(head_));
    return plain_row(rows, q_[i].data() + at, dmixed + at, head_, scale, mixed + at, &lse, dq + at);
  }

  const float* w_;
  Index dim_, head_;
  std::vector<const float*> x_;
  Vector tokens_;
  std::vector<Vector> q_, k_, v_;
  Vector joined_, normal_;
  float total_ = 0, inverse_ = 0;
};

// Calls visit(level, at, children) for the nodes of a head, from the lowest level up; `at` counts nodes of all levels,
// children are tokens on level 0, else nodes.
template <class Visit>
void for_each_node(Index tokens, Index block, const Visit& visit) {
  Index below = 0, first = 0;
  Range children{0, tokens};
  for (Index level = 0, size = block;; ++level, size *= 2) {
    const Index count = ceil_div(tokens, size), fan_out = level == 0 ? block : 2;
    for (Index i = 0; i < count; ++i) {
      visit(level, first + i, Range{below + i * fan_out, std::min(children.end, below + (i + 1) * fan_out)});
    }
    below = first, first += count;
    children = {below, first};
    if (count <= 1) return;
  }
}

// Tokens behind each child.
Vector tokens_behind(Index level, Range children, Index first_of_level, Index block, Index tokens) {
  Vector counts;
  for (Index child = children.begin; child < children.end; ++child) {
    const Index size = level == 0 ? 1 : block << (level - 1), i = child - first_of_level;
    counts.push_back(static_cast<float>(std::min(size, tokens - i * size)));
  }
  return counts;
}

// The nodes of one head, each as the pooler makes it; a single node below is passed on, and then has no PaperNode.
class PaperHead {
 public:
  PaperHead(Index block, const Tensor<float>& x, Index batch, Index head, const Vector& parameters,
            Tensor<float>& nodes) {
    Index level_before = 0, first = 0, first_below = 0;
    for_each_node(x.tokens, block, [&](Index level, Index at, Range children) {
      if (level != level_before) first_below = first, first = at, level_before = level;
      std::vector<const float*> rows;
      for (Index child = children.begin; child < children.end; ++child)
        rows.push_back(level == 0 ? x.row(batch, head, child) : nodes.row(batch, head, child));
      nodes_.push_back({level, at, children, {}});
      if (level > 0 && children.size() == 1) {
        std::copy_n(rows[0], x.dim, nodes.row(batch, head, at));
        return;
      }
      nodes_.back().paper.emplace_back(parameters, x.dim, rows,
                                       tokens_behind(level, children, first_below, block, x.tokens));
      nodes_.back().paper[0].write(nodes.row(batch, head, at));
    });
  }

  void backward(Index batch, Index head, Tensor<float> dnodes, PlainPaperGradients& out) const {
    for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
      std::vector<float*> dx;
      for (Index child = node->children.begin; child < node->children.end; ++child)
        dx.push_back(node->level == 0 ? out.dx.row(batch, head, child) : dnodes.row(batch, head, child));
      const float* gradient = dnodes.row(batch, head, node->at);
      if (node->paper.empty()) {
        plain_add(dx[0], 1, gradient, dnodes.dim);
      } else {
        node->paper[0].backward(gradient, dx, out.dparameters.data());
      }
    }
  }

 private:
  struct Node {
    Index level, at;
    Range children;
    std::vector<PaperNode> paper;  // one or none
  };
  std::vector<Node> nodes_;
};

}  // namespace

Tensor<float> plain_paper_nodes(Index block, const Tensor<float>& x, const std::vector<float>& parameters) {
  Tensor<float> nodes(x.batch, x.heads, pooled_nodes(x.tokens, block), x.dim);
  for (Index b = 0; b < x.batch; ++b) {
    for (Index h = 0; h < x.heads; ++h) PaperHead(block, x, b, h, parameters, nodes);
  }
  return nodes;
}

PlainPaperGradients plain_paper_backward(Index block, const Tensor<float>& x, const std::vector<float>& parameters,
                                         const Tensor<float>& dnodes) {
  PlainPaperGradients out{Tensor<float>(x.batch, x.heads, x.tokens, x.dim), Vector(parameters.size())};
  std::fill(out.dx.data.begin(), out.dx.data.end(), 0.0F);
  Tensor<float> nodes(x.batch, x.heads, dnodes.tokens, x.dim);
  for (Index b = 0; b < x.batch; ++b) {
    for (Index h = 0; h < x.heads; ++h)
      PaperHead(block, x, b, h, parameters, nodes).backward(b, h, testing::converted<float>(dnodes), out);
  }
  return out;
}

}  // namespace hsattn::testing
