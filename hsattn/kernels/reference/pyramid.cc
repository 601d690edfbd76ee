#include "hsattn/kernels/reference/pyramid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "hsattn/base/elements.h"
#include "hsattn/kernels/pool.h"
#include "hsattn/kernels/quantize.h"

namespace hsattn::reference {
namespace {

void add_scaled(std::span<double> to, double factor, std::span<const double> from) {
  for (std::size_t c = 0; c < to.size(); ++c) to[c] += factor * from[c];
}

template <class T>
void copy_rows(Rows<const T> from, Matrix& to) {
  for (Index i = 0; i < from.count; ++i) {
    for (Index c = 0; c < from.dim; ++c) to.row(i)[c] = static_cast<double>(from.row(i)[c]);
  }
}

template <class T>
void copy_rows(const Matrix& from, Rows<T> to) {
  for (Index i = 0; i < to.count; ++i) {
    for (Index c = 0; c < to.dim; ++c) to.row(i)[c] = static_cast<T>(from.row(i)[c]);
  }
}

// Children of node (level, index), with the share of the mean that each one has.
struct Child {
  Node node;
  double share;
};

std::vector<Child> children_of(const Pyramid& pyramid, Index level, Index index) {
  std::vector<Child> children;
  const auto count = static_cast<double>(pyramid.count(level, index));
  if (level == 0) {
    const Index begin = index * pyramid.block, end = std::min(begin + pyramid.block, pyramid.tokens.count);
    for (Index t = begin; t < end; ++t) children.push_back({{Node::kToken, t, 1}, 1.0 / count});
    return children;
  }
  const Index nodes_below = pyramid.levels[level - 1].count;
  for (Index c = 2 * index; c < std::min(2 * index + 2, nodes_below); ++c) {
    const Index tokens = pyramid.count(level - 1, c);
    children.push_back({{level - 1, c, tokens}, static_cast<double>(tokens) / count});
  }
  return children;
}

// The larger ones; NaN where one is.
void take_larger(std::span<double> to, std::span<const double> from) {
  for (std::size_t c = 0; c < to.size(); ++c) to[c] = from[c] > to[c] || std::isnan(from[c]) ? from[c] : to[c];
}

// The first of the children that holds the maximum of column c.
Node winner_of(const Pyramid& values, const std::vector<Child>& children, std::size_t c) {
  Node winner = children.front().node;
  for (const Child& child : children) {
    const double best = values.row(winner)[c], x = values.row(child.node)[c];
    if (!std::isnan(best) && (x > best || std::isnan(x))) winner = child.node;
  }
  return winner;
}

}  // namespace

Matrix load_head(const ConstView& view, Index batch, Index head) {
  Matrix matrix(view.tokens, view.dim);
  with_element_type(view.dtype,
                    [&](auto element) { copy_rows(rows_of<const decltype(element)>(view, batch, head), matrix); });
  return matrix;
}

void store_head(const Matrix& from, const View& to, Index batch, Index head) {
  with_element_type(to.dtype, [&](auto element) { copy_rows(from, rows_of<decltype(element)>(to, batch, head)); });
}

Index Pyramid::count(Index level, Index index) const {
  const Index size = block << level;
  return std::min(size, tokens.count - index * size);
}

std::span<double> Pyramid::row(const Node& node) {
  return node.level == Node::kToken ? tokens.row(node.index) : levels[node.level].row(node.index);
}

std::span<const double> Pyramid::row(const Node& node) const {
  return node.level == Node::kToken ? tokens.row(node.index) : levels[node.level].row(node.index);
}

Pyramid zero_pyramid(Index tokens, Index dim, Index block, Pooling pooling) {
  Pyramid pyramid{block, pooling, Matrix(tokens, dim), {}, {}};
  for (Index nodes = (tokens + block - 1) / block; nodes > 0; nodes = nodes == 1 ? 0 : (nodes + 1) / 2) {
    pyramid.levels.emplace_back(nodes, dim);
  }
  return pyramid;
}

Pyramid pyramid_of(Matrix tokens, Index block, const Matrix& nodes) {
  Pyramid pyramid = zero_pyramid(tokens.count, tokens.dim, block);
  pyramid.tokens = std::move(tokens);
  auto from = nodes.data.begin();
  for (Matrix& level : pyramid.levels) {
    std::copy_n(from, std::ssize(level.data), level.data.begin());
    from += std::ssize(level.data);
  }
  return pyramid;
}

Matrix nodes_of(const Pyramid& pyramid) {
  Matrix nodes(0, pyramid.tokens.dim);
  for (const Matrix& level : pyramid.levels) {
    nodes.count += level.count;
    nodes.data.insert(nodes.data.end(), level.data.begin(), level.data.end());
  }
  return nodes;
}

Pyramid make_pyramid(Matrix tokens, Index block, Pooling pooling) {
  Pyramid pyramid = zero_pyramid(tokens.count, tokens.dim, block, pooling);
  pyramid.tokens = std::move(tokens);
  for (Index level = 0; level < std::ssize(pyramid.levels); ++level) {
    for (Index i = 0; i < pyramid.levels[level].count; ++i) {
      const std::span<double> node = pyramid.levels[level].row(i);
      if (pooling == Pooling::kMax) std::fill(node.begin(), node.end(), -std::numeric_limits<double>::infinity());
      for (const Child& child : children_of(pyramid, level, i)) {
        const std::span<const double> row = std::as_const(pyramid).row(child.node);
        pooling == Pooling::kMax ? take_larger(node, row) : add_scaled(node, child.share, row);
      }
    }
  }
  return pyramid;
}

void round_row(std::span<const double> x, float factor, int levels, std::span<double> out) {
  std::vector<float> single(x.size());
  for (std::size_t d = 0; d < x.size(); ++d) single[d] = static_cast<float>(x[d]) * factor;
  std::vector<std::int8_t> bytes(x.size());
  const double scale = quantize(single.data(), static_cast<Index>(x.size()), levels, bytes.data());
  for (std::size_t d = 0; d < x.size(); ++d) out[d] = scale * bytes[d];
}

Pyramid make_search_pyramid(const Matrix& tokens, Index block, Pooling pooling, Index parts) {
  if (parts > 1) {
    Pyramid pyramid = make_search_pyramid(tokens, block, pooling);
    pyramid.parts = make_search_pyramid(tokens, block / parts, pooling).levels.front();
    return pyramid;
  }
  Matrix nodes = nodes_of(zero_pyramid(tokens.count, tokens.dim, block));
  std::vector<float> rows(tokens.data.begin(), tokens.data.end());
  std::vector<float> pooled(nodes.data.size());
  pool(pooling, {rows.data(), tokens.count, tokens.dim, tokens.dim}, block, tokens.dim, pooled.data());
  std::copy(pooled.begin(), pooled.end(), nodes.data.begin());
  return make_search_pyramid(tokens, block, nodes);
}

Pyramid make_search_pyramid(const Matrix& tokens, Index block, const Matrix& nodes) {
  Pyramid pyramid = pyramid_of(tokens, block, nodes);
  const auto round = [](Matrix& rows) {
    for (Index i = 0; i < rows.count; ++i) round_row(std::as_const(rows).row(i), 1.0F, kKeyLevels, rows.row(i));
  };
  round(pyramid.tokens);
  for (Matrix& level : pyramid.levels) round(level);
  return pyramid;
}

void spread_gradient(Pyramid& gradient, const Pyramid& values) {
  for (Index level = std::ssize(gradient.levels) - 1; level >= 0; --level) {
    for (Index i = 0; i < gradient.levels[level].count; ++i) {
      const std::span<const double> from = std::as_const(gradient).levels[level].row(i);
      if (std::all_of(from.begin(), from.end(), [](double x) { return x == 0.0; })) continue;
      const std::vector<Child> children = children_of(gradient, level, i);
      if (values.pooling == Pooling::kMax) {
        for (std::size_t c = 0; c < from.size(); ++c) gradient.row(winner_of(values, children, c))[c] += from[c];
        continue;
      }
      for (const Child& child : children) add_scaled(gradient.row(child.node), child.share, from);
    }
  }
}

}  // namespace hsattn::reference
