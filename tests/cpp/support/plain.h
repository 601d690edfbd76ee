// Plain attention in float32: what a careful person writes first. The yardstick of the error bounds.
#pragma once

#include "support/problem.h"

namespace hsattn::testing {

/// Forward and backward over the tokens and far nodes of `plan`, every operation in float32, in index order.
Solution<float> plain_float32(const Problem& problem, const Tensors<float>& in, const PlanView& plan);

}  // namespace hsattn::testing
