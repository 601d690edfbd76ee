// Linformer as tests call it, and a plain implementation to compare it with.
#pragma once

#include "support/problem.h"

namespace hsattn::testing {

struct LinformerProblem {
  Problem shape;
  Index rank = 4, segment = 32, longest = 0;  // longest 0: as many as there are keys

  Index columns() const { return longest > 0 ? longest : shape.keys; }
};

LinformerProblem linformer_problem(const char* name, Index heads, Index kv_heads, Index queries, Index keys, Index dim,
                                   bool causal, Index rank, Index segment);

std::string describe(const LinformerProblem& problem);

/// Both projections [1, 2, rank, longest], of keys and of values, about 1 / sqrt(piece).
template <class T>
Tensor<T> linformer_projections(const LinformerProblem& problem) {
  Random random(99);
  const double piece = static_cast<double>(problem.shape.options.causal ? problem.segment : problem.columns());
  std::normal_distribution<float> normal(0, static_cast<float>(1 / std::sqrt(piece)));
  Tensor<T> both(1, 2, problem.rank, problem.columns());
  for (T& x : both.data) x = static_cast<T>(normal(random));
  return both;
}

template <class T>
LinformerOptions linformer_options(const LinformerProblem& p, const Tensor<T>& projections) {
  return {{projections.row(0, 0, 0), projections.row(0, 1, 0), p.rank, p.columns()}, p.segment, p.shape.options.causal};
}

template <class T>
struct LinformerSolution : Solution<T> {
  Tensor<LseOf<T>> dprojections;
};

/// Forward and backward of the public interface, into outputs full of NaN.
template <class T>
LinformerSolution<T> solve_linformer(const LinformerProblem& problem, const Tensors<T>& in,
                                     const Tensor<LseOf<T>>& projections, Executor& executor = serial_executor());

/// With projections of linformer_projections(); of floats, in stored_type().
template <class T>
LinformerSolution<T> solve_linformer(const LinformerProblem& problem, const Tensors<T>& in,
                                     Executor& executor = serial_executor());

/// As a careful person writes it first, projected rows and weights in memory; sums are float32, what lies in memory is
/// rounded to stored_type().
LinformerSolution<float> plain_linformer(const LinformerProblem& problem, const Tensors<float>& in);

}  // namespace hsattn::testing
