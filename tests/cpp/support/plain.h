// Plain attention in the stored type: what a careful person writes first. The yardstick of the error bounds.
#pragma once

#include "support/problem.h"

namespace hsattn::testing {

/// Forward and backward over the tokens and far nodes of `plan` in index order. Sums are float32; what an unfused
/// implementation writes to memory between its matrix products (scores, weights, their gradients, pooled keys and
/// values, outputs) is rounded to stored_type().
Solution<float> plain_solution(const Problem& problem, const Tensors<float>& in, const PlanView& plan);

/// What one query attends: rows of keys and values, and what is added to their scores.
struct AttendedRows {
  std::vector<const float*> keys, values;
  std::vector<float> bias;
  bool in_float32 = false;  // nothing is rounded to stored_type()
};

/// Of each attended row: what multiplies q in the gradient of its key, and dout in that of its value.
struct RowGradients {
  std::vector<float> of_key, of_value;
};

/// One query's softmax, as above: writes o and lse, adds to dq.
RowGradients plain_row(const AttendedRows& rows, const float* q, const float* dout, Index dim, float scale, float* o,
                       float* lse, float* dq);

/// Sums in float32.
float plain_dot(const float* a, const float* b, Index dim);
void plain_add(float* to, float factor, const float* from, Index dim);

/// How far a kernel may be from `exact`: twice as far as `plain`, and a floor: that of rounding, at least 1e-5 of the
/// largest result.
double error_allowed(const Tensor<float>& plain, const Tensor<double>& exact);

}  // namespace hsattn::testing
