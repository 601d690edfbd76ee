#include "hsattn/pooling/reference.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "hsattn/kernels/reference/reference.h"

namespace hsattn::reference {
namespace {

using Row = std::span<double>;
using ConstRow = std::span<const double>;

void add_scaled(Row to, double factor, ConstRow from) {
  for (std::size_t c = 0; c < to.size(); ++c) to[c] += factor * from[c];
}

bool all_zero(ConstRow x) {
  return std::all_of(x.begin(), x.end(), [](double e) { return e == 0; });
}

ConstRow row_of(const Matrix& m, Index i) { return m.row(i); }

// Calls body(level, index, tokens) for every node, from the lowest level up.
void for_each_node(const Pyramid& pyramid, const std::function<void(Index, Index, Range)>& body) {
  for (Index level = 0; level < std::ssize(pyramid.levels); ++level) {
    for (Index i = 0; i < pyramid.levels[level].count; ++i) {
      const Index begin = i * (pyramid.block << level);
      body(level, i, {begin, begin + pyramid.count(level, i)});
    }
  }
}

// --- kAttention: weights softmax(w.k_t) over the node's tokens.

std::vector<double> weights_of(const Matrix& parameters, const Matrix& k, Range tokens) {
  std::vector<double> weights;
  for (Index t = tokens.begin; t < tokens.end; ++t) weights.push_back(dot(parameters.row(0), k.row(t)));
  const double lse = log_sum_exp(weights);
  for (double& w : weights) w = std::exp(w - lse);
  return weights;
}

void pool_by_keys(const Matrix& parameters, PooledHead& head) {
  for_each_node(head.k, [&](Index level, Index i, Range tokens) {
    const std::vector<double> weights = weights_of(parameters, head.k.tokens, tokens);
    for (Index t = tokens.begin; t < tokens.end; ++t) {
      add_scaled(head.k.levels[level].row(i), weights[t - tokens.begin], row_of(head.k.tokens, t));
      add_scaled(head.v.levels[level].row(i), weights[t - tokens.begin], row_of(head.v.tokens, t));
    }
  });
}

// With node = sum p_t x_t:   dx_t += p_t g      ds_t = p_t g.(x_t - node)      dw += ds_t k_t      dk_t += ds_t w
void pool_by_keys_backward(const Matrix& parameters, const PooledHead& head, PooledHead& gradients,
                           Matrix& dparameters) {
  for_each_node(head.k, [&](Index level, Index i, Range tokens) {
    const ConstRow dk = row_of(gradients.k.levels[level], i), dv = row_of(gradients.v.levels[level], i);
    if (all_zero(dk) && all_zero(dv)) return;
    const std::vector<double> weights = weights_of(parameters, head.k.tokens, tokens);
    const double of_node = dot(dk, row_of(head.k.levels[level], i)) + dot(dv, row_of(head.v.levels[level], i));
    for (Index t = tokens.begin; t < tokens.end; ++t) {
      const ConstRow k = row_of(head.k.tokens, t), v = row_of(head.v.tokens, t);
      const double p = weights[t - tokens.begin], ds = p * (dot(dk, k) + dot(dv, v) - of_node);
      add_scaled(gradients.k.tokens.row(t), p, dk);
      add_scaled(gradients.v.tokens.row(t), p, dv);
      add_scaled(dparameters.row(0), ds, k);
      add_scaled(gradients.k.tokens.row(t), ds, parameters.row(0));
    }
  });
}

// --- kLearnable: by pairs from single tokens up. `side` is 0 for keys, 1 for values.

// The first child's share in channel c, where the children have so many tokens behind them.
double first_share(const Matrix& parameters, Index side, Index c, Index left, Index right) {
  const double a = static_cast<double>(left) * std::exp(parameters.row(side)[c]);
  const double b = static_cast<double>(right) * std::exp(parameters.row(side + 2)[c]);
  return a / (a + b);
}

// The node over `size` tokens from `begin`, a power of two, of those that exist.
std::vector<double> paired(const Matrix& parameters, const Matrix& x, Index side, Index begin, Index size) {
  if (size == 1) return {x.row(begin).begin(), x.row(begin).end()};
  const Index half = size / 2, middle = begin + half;
  std::vector<double> node = paired(parameters, x, side, begin, half);
  if (middle >= x.count) return node;
  const std::vector<double> right = paired(parameters, x, side, middle, half);
  for (Index c = 0; c < x.dim; ++c) {
    const double share = first_share(parameters, side, c, half, std::min(half, x.count - middle));
    node[c] = share * node[c] + (1 - share) * right[c];
  }
  return node;
}

void paired_backward(const Matrix& parameters, const Matrix& x, Index side, Index begin, Index size, ConstRow gradient,
                     Matrix& dx, Matrix& dparameters) {
  if (size == 1) return add_scaled(dx.row(begin), 1, gradient);
  const Index half = size / 2, middle = begin + half;
  if (middle >= x.count) {
    return paired_backward(parameters, x, side, begin, half, gradient, dx, dparameters);
  }
  const std::vector<double> left = paired(parameters, x, side, begin, half);
  const std::vector<double> right = paired(parameters, x, side, middle, half);
  std::vector<double> to_left(left.size()), to_right(left.size());
  for (Index c = 0; c < x.dim; ++c) {
    const double share = first_share(parameters, side, c, half, std::min(half, x.count - middle));
    to_left[c] = share * gradient[c];
    to_right[c] = (1 - share) * gradient[c];
    const double slope = share * (1 - share) * (left[c] - right[c]) * gradient[c];
    dparameters.row(side)[c] += slope;
    dparameters.row(side + 2)[c] -= slope;
  }
  paired_backward(parameters, x, side, begin, half, to_left, dx, dparameters);
  paired_backward(parameters, x, side, middle, half, to_right, dx, dparameters);
}

void pool_by_positions(const Matrix& parameters, Pyramid& x, Index side) {
  for_each_node(x, [&](Index level, Index i, Range tokens) {
    const std::vector<double> node = paired(parameters, x.tokens, side, tokens.begin, x.block << level);
    std::copy(node.begin(), node.end(), x.levels[level].row(i).begin());
  });
}

void pool_by_positions_backward(const Matrix& parameters, const Pyramid& x, Index side, Pyramid& gradients,
                                Matrix& dparameters) {
  for_each_node(x, [&](Index level, Index i, Range tokens) {
    const ConstRow gradient = row_of(gradients.levels[level], i);
    if (all_zero(gradient)) return;
    paired_backward(parameters, x.tokens, side, tokens.begin, x.block << level, gradient, gradients.tokens,
                    dparameters);
  });
}

// --- kAttentionPaper: nodes of children, level by level. A node of a single node is that node.

// The children of a node: rows [first, first + count) of the level below, and the tokens behind each.
struct Children {
  Index first = 0;
  Matrix rows;
  std::vector<double> tokens;
};

Children children_of(const Pyramid& x, Index level, Index index) {
  const Matrix& below = level == 0 ? x.tokens : x.levels[level - 1];
  const Index fan_out = level == 0 ? x.block : 2;
  Children children;
  children.first = index * fan_out;
  children.rows = Matrix(std::min(fan_out, below.count - children.first), below.dim);
  for (Index j = 0; j < children.rows.count; ++j) {
    const ConstRow row = below.row(children.first + j);
    std::copy(row.begin(), row.end(), children.rows.row(j).begin());
    children.tokens.push_back(level == 0 ? 1 : static_cast<double>(x.count(level - 1, children.first + j)));
  }
  return children;
}

void pool_as_paper(const Matrix& parameters, Pyramid& x) {
  for_each_node(x, [&](Index level, Index i, Range) {
    const Children children = children_of(x, level, i);
    const std::vector<double> node = level > 0 && children.rows.count == 1
                                         ? children.rows.data
                                         : paper_node(parameters, children.rows, children.tokens);
    std::copy(node.begin(), node.end(), x.levels[level].row(i).begin());
  });
}

void pool_as_paper_backward(const Matrix& parameters, const Pyramid& x, Pyramid& gradients, Matrix& dparameters) {
  for (Index level = std::ssize(x.levels) - 1; level >= 0; --level) {
    for (Index i = 0; i < x.levels[level].count; ++i) {
      const ConstRow gradient = row_of(gradients.levels[level], i);
      if (all_zero(gradient)) continue;
      const Children children = children_of(x, level, i);
      Matrix dchildren(children.rows.count, children.rows.dim);
      if (level > 0 && children.rows.count == 1) {
        add_scaled(dchildren.row(0), 1, gradient);
      } else {
        paper_node_backward(parameters, children.rows, children.tokens, gradient, dchildren, dparameters);
      }
      Matrix& below = level == 0 ? gradients.tokens : gradients.levels[level - 1];
      for (Index j = 0; j < dchildren.count; ++j) add_scaled(below.row(children.first + j), 1, row_of(dchildren, j));
    }
  }
}

// --- Whole calls.

template <class T>
Matrix matrix_of(const void* data, Index rows, Index dim) {
  Matrix m(rows, dim);
  std::copy_n(static_cast<const T*>(data), rows * dim, m.data.begin());
  return m;
}

Matrix parameters_of(const PoolerInputs& in) {
  const Index rows = pooler_rows(in.pooler, in.k.dim);
  return node_type(in.k.dtype) == DType::kFloat64 ? matrix_of<double>(in.parameters, rows, in.k.dim)
                                                  : matrix_of<float>(in.parameters, rows, in.k.dim);
}

}  // namespace

PooledHead pool_head(Pooler pooler, Index block, const Matrix& parameters, Matrix k, Matrix v) {
  PooledHead head{zero_pyramid(k.count, k.dim, block), zero_pyramid(v.count, v.dim, block)};
  head.k.tokens = std::move(k);
  head.v.tokens = std::move(v);
  if (pooler == Pooler::kAttention) {
    pool_by_keys(parameters, head);
  } else if (pooler == Pooler::kLearnable) {
    pool_by_positions(parameters, head.k, 0);
    pool_by_positions(parameters, head.v, 1);
  } else {
    pool_as_paper(parameters, head.k);
    pool_as_paper(parameters, head.v);
  }
  return head;
}

void pool_head_backward(Pooler pooler, const Matrix& parameters, const PooledHead& head, PooledHead& gradients,
                        Matrix& dparameters) {
  if (pooler == Pooler::kAttention) {
    pool_by_keys_backward(parameters, head, gradients, dparameters);
  } else if (pooler == Pooler::kLearnable) {
    pool_by_positions_backward(parameters, head.k, 0, gradients.k, dparameters);
    pool_by_positions_backward(parameters, head.v, 1, gradients.v, dparameters);
  } else {
    pool_as_paper_backward(parameters, head.k, gradients.k, dparameters);
    pool_as_paper_backward(parameters, head.v, gradients.v, dparameters);
  }
}

void pool_forward(const PoolerInputs& in, const Nodes& out, Executor& executor) {
  const Matrix parameters = parameters_of(in);
  executor.run(in.k.batch * in.k.heads, [&](Index task) {
    const Index batch = task / in.k.heads, head = task % in.k.heads;
    const PooledHead pooled =
        pool_head(in.pooler, in.block, parameters, load_head(in.k, batch, head), load_head(in.v, batch, head));
    store_head(nodes_of(pooled.k), out.k, batch, head);
    store_head(nodes_of(pooled.v), out.v, batch, head);
  });
}

void pool_backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads, Executor& executor) {
  const Matrix parameters = parameters_of(in);
  std::vector<Matrix> sums;  // of each head
  for (Index i = 0; i < in.k.batch * in.k.heads; ++i) sums.emplace_back(parameters.count, parameters.dim);
  executor.run(in.k.batch * in.k.heads, [&](Index task) {
    const Index batch = task / in.k.heads, head = task % in.k.heads;
    const PooledHead pooled =
        pool_head(in.pooler, in.block, parameters, load_head(in.k, batch, head), load_head(in.v, batch, head));
    const Matrix none(in.k.tokens, in.k.dim);
    PooledHead gradients{pyramid_of(none, in.block, load_head(dnodes.k, batch, head)),
                         pyramid_of(none, in.block, load_head(dnodes.v, batch, head))};
    pool_head_backward(in.pooler, parameters, pooled, gradients, sums[static_cast<std::size_t>(task)]);
    store_head(gradients.k.tokens, grads.dk, batch, head);
    store_head(gradients.v.tokens, grads.dv, batch, head);
  });
  for (Index i = 0; i < std::ssize(parameters.data); ++i) {
    double sum = 0;
    for (const Matrix& of_head : sums) sum += of_head.data[static_cast<std::size_t>(i)];
    if (node_type(in.k.dtype) == DType::kFloat64) {
      static_cast<double*>(grads.dparameters)[i] = sum;
    } else {
      static_cast<float*>(grads.dparameters)[i] = static_cast<float>(sum);
    }
  }
}

}  // namespace hsattn::reference
