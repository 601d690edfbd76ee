#include "hsattn/pooling/product.h"

#include <algorithm>

namespace hsattn::pooling {
namespace {

// Sums of a tile stay in registers: 4 x 8 floats are 8 vectors of SSE or NEON.
constexpr Index kRows = 4, kColumns = 8;

template <Index kTileRows, Index kTileColumns>
void add_tile(Index depth, const Matrix& a, const Matrix& b, float* c, Index c_row) {
  float sum[kTileRows][kTileColumns] = {};
  for (Index p = 0; p < depth; ++p) {
    for (Index i = 0; i < kTileRows; ++i) {
      for (Index j = 0; j < kTileColumns; ++j) sum[i][j] += a.data[i * a.row + p * a.column] * b.data[p * b.row + j];
    }
  }
  for (Index i = 0; i < kTileRows; ++i) {
    for (Index j = 0; j < kTileColumns; ++j) c[i * c_row + j] += sum[i][j];
  }
}

template <Index kTileRows>
void add_rows(Index columns, Index depth, const Matrix& a, const Matrix& b, float* c, Index c_row) {
  Index j = 0;
  for (; j + kColumns <= columns; j += kColumns) {
    add_tile<kTileRows, kColumns>(depth, a, {b.data + j, b.row}, c + j, c_row);
  }
  for (; j < columns; ++j) add_tile<kTileRows, 1>(depth, a, {b.data + j, b.row}, c + j, c_row);
}

}  // namespace

void add_product(Index rows, Index columns, Index depth, const Matrix& a, const Matrix& b, float* c, Index c_row) {
  Index i = 0;
  for (; i + kRows <= rows; i += kRows) {
    add_rows<kRows>(columns, depth, {a.data + i * a.row, a.row, a.column}, b, c + i * c_row, c_row);
  }
  for (; i < rows; ++i) add_rows<1>(columns, depth, {a.data + i * a.row, a.row, a.column}, b, c + i * c_row, c_row);
}

}  // namespace hsattn::pooling
