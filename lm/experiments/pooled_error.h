// What it costs to put pooled nodes in place of tokens in a softmax, and the bound of docs/theory.md. No torch here.
#pragma once

#include <cstdint>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// One row of attention over `scores.size()` tokens that are cut into nodes: node j is tokens [first[j], first[j + 1]).
/// Nodes of one token stand for themselves.
struct PooledRow {
  std::vector<double> scores;  ///< scaled q.k of each token
  std::vector<double> values;  ///< [tokens, dim]
  Index dim = 0;
  std::vector<Index> first;  ///< [nodes + 1]
};

struct PooledError {
  double error = 0;     ///< |o - o_pooled|, Euclidean
  double bound = 0;     ///< of docs/theory.md, Theorem 1
  double alpha = 0;     ///< coherence: the widest range of scores within a node
  double mass = 0;      ///< true softmax mass on nodes of several tokens
  double diameter = 0;  ///< of all values, or at most twice it
};

PooledError pooled_error(const PooledRow& row);

/// Row `number` of a fixed sequence of random ones: lengths 16 to 4096, ranges within nodes from 0.01 to 30, values
/// that do and do not follow the scores, nodes of equal and of growing sizes.
PooledRow random_row(Index number, Index seed);

}  // namespace hsattn::lm
