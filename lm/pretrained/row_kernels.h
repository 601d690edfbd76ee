// What a decoder does to rows of activations besides products of matrices, each in one pass over memory, where torch's
// operators take several; and the product of a matrix with one row. Computed in float32, rounded once. No torch here.
#pragma once

#include "hsattn/base/elements.h"

namespace hsattn::lm {

/// y[r] = sum over i of matrix[r, i] x[i] for rows [first, end) of matrix [.., columns]: the work of decoding, bound by
/// reading the matrix.
void vector_product(const BFloat16* matrix, Index columns, const float* x, Index first, Index end, BFloat16* y);

/// out[i] = x[i] / sqrt(mean of squares of x + epsilon) * weight[i], for rows of `width`, one behind the other. `out`
/// may be `x`. RMSNorm (Zhang and Sennrich 2019).
void normalize_rows(const float* x, const float* weight, double epsilon, Index rows, Index width, float* out);
void normalize_rows(const BFloat16* x, const BFloat16* weight, double epsilon, Index rows, Index width, BFloat16* out);

/// Rotary positions, in place: of each row of `dim`, pairs (i, i + dim / 2) turn by the angle with cos[i] and sin[i].
///   x [rows, dim], the heads of one token; cos, sin [dim / 2]
void rotate_rows(float* x, const float* cos, const float* sin, Index rows, Index dim);
void rotate_rows(BFloat16* x, const float* cos, const float* sin, Index rows, Index dim);

/// out[r, i] = silu(x[r, i]) x[r, inner + i].
///   x [rows, 2 inner]; out [rows, inner]
void gate_rows(const float* x, Index rows, Index inner, float* out);
void gate_rows(const BFloat16* x, Index rows, Index inner, BFloat16* out);

}  // namespace hsattn::lm
