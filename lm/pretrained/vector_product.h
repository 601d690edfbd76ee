// A matrix of bfloat16 times one vector: the work of decoding. No torch here.
#pragma once

#include <cstdint>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// y[r] = sum over i of matrix[r, i] x[i] for rows [first, end), summed in float32 and rounded once.
///   matrix [.., columns] bfloat16 as bits, rows one behind the other; x [columns] float32; y bfloat16 as bits
/// Bound by reading the matrix.
void vector_product(const std::uint16_t* matrix, Index columns, const float* x, Index first, Index end,
                    std::uint16_t* y);

}  // namespace hsattn::lm
