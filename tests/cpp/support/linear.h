// Linear attention as tests call it, and plain implementations to compare it with.
#pragma once

#include "support/problem.h"

namespace hsattn::testing {

/// A problem and its feature map: `features` rows of performer, or elu + 1 if 0.
struct LinearProblem {
  Problem shape;
  Index features = 0;

  LinearOptions options() const;
};

std::string describe(const LinearProblem& problem);

/// Forward and backward of the public interface, into outputs full of NaN; lse stays empty.
template <class T>
Solution<T> solve_linear(const LinearProblem& problem, const Tensors<T>& in, Executor& executor = serial_executor());

/// Of floats, in stored_type().
template <>
Solution<float> solve_linear(const LinearProblem& problem, const Tensors<float>& in, Executor& executor);

/// All weights in memory, as a careful person writes it first: sums are float32; features, weights, their gradients and
/// outputs are rounded to stored_type().
Solution<float> plain_linear(const LinearProblem& problem, const Tensors<float>& in);

}  // namespace hsattn::testing
