// Plain attention in the stored type: what a careful person writes first. The yardstick of the error bounds.
#pragma once

#include "support/problem.h"

namespace hsattn::testing {

/// Forward and backward over the tokens and far nodes of `plan` in index order. Sums are float32; what an unfused
/// implementation writes to memory between its matrix products (scores, weights, their gradients, pooled keys and
/// values, outputs) is rounded to stored_type().
Solution<float> plain_solution(const Problem& problem, const Tensors<float>& in, const PlanView& plan);

}  // namespace hsattn::testing
