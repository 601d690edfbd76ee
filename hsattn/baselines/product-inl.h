// Products of small matrices that lie in the cache, in tiles of registers. Compiled once per instruction set.
#pragma once

#include "hsattn/kernels/cpu/simd.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// The left factor: element (r, k) lies at data[r * row_stride + k * depth_stride], so that a transposed matrix is one.
struct Left {
  const float* data;
  Index row_stride, depth_stride;
};

// The right factor [depth, columns], and a result [rows, columns].
struct Right {
  const float* data;
  Index stride;
};
struct Result {
  float* data;
  Index stride;
};

// c = a b, or c += a b, for R rows and N vectors of columns. Each element is one chain of fused sums in the order of
// depth, which starts from the element itself if kAdd: its bits do not depend on the tile around it.
template <int R, int N, bool kAdd>
HSATTN_APART void product_tile(Left a, Right b, Index depth, Result c) {
  F acc[R * N];  // [rows, vectors]
  each<R * N>([&](int i) HSATTN_ALWAYS { acc[i] = kAdd ? load(c.data + i / N * c.stride + i % N * kLanes) : zero(); });
  const float* left = a.data;
  const float* right = b.data;
  for (Index k = 0; k < depth; ++k, left += a.depth_stride, right += b.stride) {
    F x[N];
    each<N>([&](int n) HSATTN_ALWAYS { x[n] = load(right + n * kLanes); });
    each<R>([&](int r) HSATTN_ALWAYS {
      const F y = set1(left[r * a.row_stride]);
      each<N>([&](int n) HSATTN_ALWAYS { acc[r * N + n] = fma(y, x[n], acc[r * N + n]); });
    });
  }
  each<R * N>([&](int i) HSATTN_ALWAYS { store(c.data + i / N * c.stride + i % N * kLanes, acc[i]); });
}

// The same for R rows and any number of columns, a multiple of the vector.
template <int R, bool kAdd>
HSATTN_INLINE void product_rows(Left a, Right b, Index depth, Index columns, Result c) {
  constexpr int kMost = kLanes == 16 ? 4 : 3;  // 16 or 12 accumulators
  Index at = 0;
  const auto right = [&] { return Right{b.data + at, b.stride}; };
  const auto result = [&] { return Result{c.data + at, c.stride}; };
  for (; at + kMost * kLanes <= columns; at += kMost * kLanes)
    product_tile<R, kMost, kAdd>(a, right(), depth, result());
  const Index rest = (columns - at) / kLanes;
  if (rest == 3) product_tile<R, 3, kAdd>(a, right(), depth, result());
  if (rest == 2) product_tile<R, 2, kAdd>(a, right(), depth, result());
  if (rest == 1) product_tile<R, 1, kAdd>(a, right(), depth, result());
}

template <int R>
struct RowCount {
  static constexpr int value = R;
};

// body(row, RowCount) for rows [begin, end) in tiles of 4, then one by one; all one by one if `apart`.
template <class Body>
HSATTN_INLINE void for_row_tiles(Index begin, Index end, bool apart, Body body) {
  Index row = begin;
  if (!apart) {
    for (; row + 4 <= end; row += 4) body(row, RowCount<4>{});
  }
  for (; row < end; ++row) body(row, RowCount<1>{});
}

// c = a b, or c += a b, for rows [begin, end) of a and c.
template <bool kAdd>
HSATTN_APART void product(Left a, Right b, Index depth, Index columns, Result c, Index begin, Index end) {
  for_row_tiles(begin, end, false, [&](Index row, auto rows) {
    product_rows<decltype(rows)::value, kAdd>({a.data + row * a.row_stride, a.row_stride, a.depth_stride}, b, depth,
                                              columns, {c.data + row * c.stride, c.stride});
  });
}

HSATTN_APART void transpose(const float* from, Index from_stride, Index rows, Index columns, float* to,
                            Index to_stride) {
  constexpr Index kBlock = 16;  // a cache line of `to`
  for (Index r0 = 0; r0 < rows; r0 += kBlock) {
    const Index end = min_of(rows, r0 + kBlock);
    for (Index c = 0; c < columns; ++c) {
      for (Index r = r0; r < end; ++r) to[c * to_stride + r] = from[r * from_stride + c];
    }
  }
}

// x in the first `count` lanes, 0 in the others; count may be negative or more than there are.
HSATTN_INLINE F first_lanes(F x, Index count) {
  const unsigned lanes = count >= kLanes ? 0xffffU : count <= 0 ? 0U : (1U << count) - 1U;
  return select(lanes_of_word(lanes), x, zero());
}

HSATTN_INLINE float sum_of_lanes(F x) { return sum_of_half(add_units(half_zero(), x)); }

// Of padded rows.
HSATTN_INLINE float dot_of_rows(const float* a, const float* b, Index padded) {
  F sum = zero();
  for (Index i = 0; i < padded; i += kLanes) sum = fma(load(a + i), load(b + i), sum);
  return sum_of_lanes(sum);
}

// row *= factor, and to += factor * row.
HSATTN_INLINE void scale_row(float* row, Index padded, float factor) {
  for (Index i = 0; i < padded; i += kLanes) store(row + i, mul(load(row + i), set1(factor)));
}
HSATTN_INLINE void add_scaled_row(float* to, const float* row, Index padded, float factor) {
  for (Index i = 0; i < padded; i += kLanes) store(to + i, fma(set1(factor), load(row + i), load(to + i)));
}

HSATTN_INLINE bool all_finite(const float* rows, Index begin, Index end, Index padded) {
  constexpr unsigned kAll = kLanes == 16 ? 0xffffU : 0xffU;
  unsigned good = kAll;
  for (Index i = begin * padded; i < end * padded; i += kLanes) good &= bits(finite(load(rows + i)));
  return good == kAll;
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
