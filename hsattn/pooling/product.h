// Products of small matrices.
#pragma once

#include "hsattn/base/types.h"

namespace hsattn::pooling {

// A matrix whose element (i, j) is data[i * row + j * column].
struct Matrix {
  const float* data;
  Index row, column = 1;
};

// c[i, j] += sum over p of a(i, p) b(p, j), for i < rows, j < columns, p < depth; the rows of c lie c_row apart and
// those of b have column 1.
void add_product(Index rows, Index columns, Index depth, const Matrix& a, const Matrix& b, float* c, Index c_row);

}  // namespace hsattn::pooling
