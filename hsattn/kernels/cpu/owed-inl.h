// What rows owe to the keys that they see: sums of weights times rows, dk += ds q and dv += p dout, of the rows of all
// quads in their order.
#pragma once

#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/micro-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// What some quads owe to the same keys: weights [4, 64] of a panel, of which the first columns count, and rows [4,
// padded dim] of q or dout. Of Pairs there are 2 rows, each of two.
struct Owed {
  const float* w[kSideBySide];
  const float* x[kSideBySide];
  int quads = 0;
};

// to[j] += sum of w[r][first + j] x[r] over the rows r of all quads, in their order, for K keys and N vectors of
// columns.
template <class Words, int K, int N>
HSATTN_ALONE void add_outer_of_vectors(const Owed& owed, int first, Index padded, Index column, float* const* to) {
  F acc[K * N];  // [keys, vectors]
  each<K * N>([&](int i) HSATTN_ALWAYS { acc[i] = load(to[i / N] + column + i % N * kLanes); });
  for (int i = 0; i < owed.quads; ++i) {
    const float* w = owed.w[i] + first;
    const float* x = owed.x[i] + column;
#pragma GCC unroll 1
    for (int r = 0; r < kQuad / Words::kPerWord; ++r, x += padded, w += kPanel) {
      F row[N];
      each<N>([&](int c) HSATTN_ALWAYS { row[c] = load(x + c * kLanes); });
      each<K>([&](int j) HSATTN_ALWAYS {
        const F weight = set1(w[j]);
        each<N>([&](int c) HSATTN_ALWAYS { acc[j * N + c] = Words::add_products(acc[j * N + c], weight, row[c]); });
      });
    }
  }
  each<K * N>([&](int i) HSATTN_ALWAYS { store(to[i / N] + column + i % N * kLanes, acc[i]); });
}

template <class Words, int K>
HSATTN_INLINE void add_outer_of_keys(const Owed& owed, int first, Index padded, float* const* to) {
  Index column = 0;
  for (; column + 3 * kLanes <= padded; column += 3 * kLanes)  // 12 accumulators of 4 keys
    add_outer_of_vectors<Words, K, 3>(owed, first, padded, column, to);
  const Index rest = (padded - column) / kLanes;
  if (rest == 2) add_outer_of_vectors<Words, K, 2>(owed, first, padded, column, to);
  if (rest == 1) add_outer_of_vectors<Words, K, 1>(owed, first, padded, column, to);
}

// The same sums in the same order, with the rows of a quad in registers and the keys streaming past.
template <class Words, int N, class RowOf>
HSATTN_APART void add_outer_by_key(const Owed& owed, Index padded, Index column, int keys, RowOf row_of) {
  constexpr int kRows = kQuad / Words::kPerWord;
  for (int i = 0; i < owed.quads; ++i) {
    F rows[kRows * N];
    each<kRows * N>([&](int e) HSATTN_ALWAYS { rows[e] = load(owed.x[i] + e / N * padded + column + e % N * kLanes); });
    for (int j = 0; j < keys; ++j) {
      float* to = row_of(j) + column;
      F acc[N];
      each<N>([&](int c) HSATTN_ALWAYS { acc[c] = load(to + c * kLanes); });
      each<kRows>([&](int r) HSATTN_ALWAYS {
        const F weight = set1(owed.w[i][r * kPanel + j]);
        each<N>([&](int c) HSATTN_ALWAYS { acc[c] = Words::add_products(acc[c], weight, rows[r * N + c]); });
      });
      each<N>([&](int c) HSATTN_ALWAYS { store(to + c * kLanes, acc[c]); });
    }
  }
}

// The same for any number of keys; row_of(j) is what key j gets. With 16 registers keys stay in them and the rows of
// all quads stream past; with 32 the rows of a quad stay. Backward of `full`, n 8192, 4 heads, d 64, one thread of a
// Zen 4 that was not quiet, keys streaming -> keys staying: AVX2 1.14 -> 1.05 s, AVX-512 .86 -> .92 s.
template <class Words, class RowOf>
HSATTN_INLINE void add_outer(const Owed& owed, Index padded, int keys, RowOf row_of) {
  if constexpr (kLanes == 16) {
    Index column = 0;
    for (; column + 4 * kLanes <= padded; column += 4 * kLanes)
      add_outer_by_key<Words, 4>(owed, padded, column, keys, row_of);
    for (; column < padded; column += kLanes) add_outer_by_key<Words, 1>(owed, padded, column, keys, row_of);
  } else {
    int j = 0;
    for (; j + 4 <= keys; j += 4) {
      float* const to[4] = {row_of(j), row_of(j + 1), row_of(j + 2), row_of(j + 3)};
      add_outer_of_keys<Words, 4>(owed, j, padded, to);
    }
    for (; j < keys; ++j) {
      float* const to[1] = {row_of(j)};
      add_outer_of_keys<Words, 1>(owed, j, padded, to);
    }
  }
}

// The same sums, leaving out rows that do not see a key: for queries, keys or values that are not finite.
template <class Words, class RowOf>
HSATTN_INLINE void add_outer_seen(const float* w, const float* x, Index padded, const std::uint64_t* seen,
                                  RowOf row_of) {
  for (int r = 0; r < kQuad / Words::kPerWord; ++r) {
    const std::uint64_t* rows = seen + r * Words::kPerWord;
    for (std::uint64_t left = rows[0] | rows[Words::kPerWord - 1]; left != 0; left &= left - 1) {
      const int j = __builtin_ctzll(left);
      const unsigned who =
          static_cast<unsigned>(rows[0] >> j & 1U) | static_cast<unsigned>(rows[Words::kPerWord - 1] >> j & 1U) << 1;
      float* to = row_of(j);
      const F weight = set1(w[r * kPanel + j]);
      for (Index c = 0; c < padded; c += kLanes) {
        store(to + c, Words::add_products(load(to + c), weight, Words::masked(load(x + r * padded + c), who)));
      }
    }
  }
}

// Rounds weights [4, 64] to pairs of rows [2, 64], in place.
template <class Words>
HSATTN_INLINE void pair_up_weights([[maybe_unused]] float* weights) {
  if constexpr (Words::kPerWord == 2) {
    for (int r = 0; r < kQuad; r += 2) {
      for (int c = 0; c < kPanel; c += kLanes) {
        const float* low = weights + r * kPanel + c;
        store(weights + r / 2 * kPanel + c, Words::lanes(load(low), load(low + kPanel)));
      }
    }
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
