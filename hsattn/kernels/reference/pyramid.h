// The pyramid of one head in double: tokens, blocks, and a binary tree over the blocks.
#pragma once

#include <span>
#include <vector>

#include "hsattn/base/buffer.h"
#include "hsattn/base/view.h"
#include "hsattn/plan/plan.h"

namespace hsattn::reference {

/// Rows of doubles, [count, dim], whatever type the caller's tensor has.
struct Matrix {
  Index count = 0, dim = 0;
  std::vector<double> data;

  Matrix() = default;
  Matrix(Index rows, Index columns)
      : count(rows), dim(columns), data(allocate_vector<double>(rows * columns, "attention: rows in double")) {}
  std::span<double> row(Index i) { return {data.data() + i * dim, static_cast<std::size_t>(dim)}; }
  std::span<const double> row(Index i) const { return {data.data() + i * dim, static_cast<std::size_t>(dim)}; }
};

/// One head of a tensor as doubles, and back.
Matrix load_head(const ConstView& view, Index batch, Index head);
void store_head(const Matrix& from, const View& to, Index batch, Index head);

/// What a row can attend: a token (level kToken), or 2^level blocks pooled.
struct Node {
  static constexpr Index kToken = -1;
  Index level = kToken, index = 0;
  Index tokens = 1;  ///< tokens behind it; log(tokens) is its bias
};

/// Tokens and nodes. Node (l, i) is the mean or maximum of the tokens of blocks [i 2^l, (i + 1) 2^l) that exist.
struct Pyramid {
  Index block = 0;
  Pooling pooling = Pooling::kMean;
  Matrix tokens;               ///< [tokens, dim]
  std::vector<Matrix> levels;  ///< level l: [ceil(blocks / 2^l), dim], up to a single node
  Matrix parts;                ///< of a search by parts of the blocks: these, pooled

  /// Tokens behind node (level, index): block * 2^level, fewer at the end of the sequence.
  Index count(Index level, Index index) const;
  std::span<double> row(const Node& node);
  std::span<const double> row(const Node& node) const;
};

/// The pyramid of `tokens` whose nodes of all levels, one after another, are given; and a pyramid's nodes like that.
Pyramid pyramid_of(Matrix tokens, Index block, const Matrix& nodes);
Matrix nodes_of(const Pyramid& pyramid);

/// Pools bottom up: blocks from tokens, then each level by twos, means weighted by the tokens behind each child.
Pyramid make_pyramid(Matrix tokens, Index block, Pooling pooling);

/// What the search sees of the keys: tokens and nodes rounded to bytes with one scale for each vector, the nodes pooled
/// in float32 or given. A vector with NaN or Inf becomes NaN. With `parts` above 1 also those of each block.
Pyramid make_search_pyramid(const Matrix& tokens, Index block, Pooling pooling, Index parts = 1);
Pyramid make_search_pyramid(const Matrix& tokens, Index block, const Matrix& nodes);

/// Rounds factor * x to bytes as float32, and writes the numbers that they stand for.
void round_row(std::span<const double> x, float factor, int levels, std::span<double> out);

/// A pyramid of zeros, shaped as the one of `tokens` rows: where gradients of tokens and nodes are added up.
Pyramid zero_pyramid(Index tokens, Index dim, Index block, Pooling pooling = Pooling::kMean);

/// The backward of make_pyramid, which gave `values`: moves the gradients of all nodes down into `gradient.tokens`.
/// That of a maximum goes to the child that won, element by element; of equal children the first won. Nodes that hold
/// no gradient (exactly zero) leave their tokens untouched.
void spread_gradient(Pyramid& gradient, const Pyramid& values);

}  // namespace hsattn::reference
