// Rows of a tensor in the type in which they are stored. Kernels compute in float32: what they read and write passes
// through here, compiled once and without vector flags.
#pragma once

#include <cstddef>

#include "hsattn/base/view.h"

namespace hsattn::cpu {

// Rows [count, dim] of one head; the heads of a group follow at head_stride. Strides count elements.
template <class Byte>
struct BasicStoredRows {
  Byte* data = nullptr;
  DType dtype = DType::kFloat32;
  Index count = 0, dim = 0, stride = 0, head_stride = 0;

  Byte* row(Index i, Index head = 0) const { return data + (i * stride + head * head_stride) * size_of(dtype); }
};

using StoredRows = BasicStoredRows<const std::byte>;
using WritableRows = BasicStoredRows<std::byte>;

inline StoredRows stored_rows(const ConstView& v, Index batch, Index head) {
  const auto* base = static_cast<const std::byte*>(v.data);
  return {base + (batch * v.batch_stride + head * v.head_stride) * size_of(v.dtype),
          v.dtype,
          v.tokens,
          v.dim,
          v.token_stride,
          v.head_stride};
}

inline WritableRows writable_rows(const View& v, Index batch, Index head) {
  auto* base = static_cast<std::byte*>(v.data);
  return {base + (batch * v.batch_stride + head * v.head_stride) * size_of(v.dtype),
          v.dtype,
          v.tokens,
          v.dim,
          v.token_stride,
          v.head_stride};
}

// to[d] = factor * row[d].
void read_row(DType type, const std::byte* row, Index dim, float factor, float* to);

// row[d] = from[d], rounded to the type. A zero is written as +0.
void write_row(DType type, const float* from, Index dim, std::byte* row);

// Joins two rows of bfloat16 into a row of pairs, the first in the low halves; a null row is zeros.
void pair_up_rows(const std::byte* low, const std::byte* high, Index dim, float* pairs);

// A row of bfloat16 becomes the high halves of a row of pairs; low halves stay.
void set_high_halves(const std::byte* high, Index dim, float* pairs);

// Rows [begin, begin + count) as floats: where they are if they are stored so, else converted into `space` [count,
// dim].
Rows<const float> float_rows(const StoredRows& rows, Index begin, Index count, float* space);

}  // namespace hsattn::cpu
