// Micro-kernels: one quad of rows against one panel of 64 keys. Included once per instruction set.
#pragma once

#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/simd.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// A panel as a quad meets it. Rows of values are addressed lane by lane for far nodes, unit by unit otherwise.
struct Panel {
  const float* keys_t[kPanelUnits];  // [depth / step, 8, step] each
  const float* rows[kPanelUnits];    // values [unit rows, padded dim] each
  std::uint64_t seen[kQuad];         // bit j: the row sees key j
  int units;                         // of 8; the others are zeros that no row sees
  bool all_seen;
  bool careful;  // holds a value that is not finite
};

// Words of 4 rows, and what their products with keys are multiplied by (Pairs only; else it is in the rows).
template <class Words>
struct QuadRows {
  const float* words;  // [4, stride]
  Index stride;
  float factor;
};

// Keys as they are packed.
struct KeysOfUnits {
  static constexpr int kAtOnce = kLanes == 16 ? 4 : 3;  // 12 accumulators, 3 keys and 1 query fill 16 registers
  const float* const* unit;

  HSATTN_ALWAYS F operator()(int u, Index offset) const { return load(unit[u] + offset); }
  HSATTN_ALWAYS KeysOfUnits from(int u) const { return {unit + u}; }
};

// scores[r][c] = q[r] . key c, for N units of keys. Each score is one chain of sums for each word of a step, so its
// bits do not depend on the shape of the tile.
template <class Words, int N, class Keys>
HSATTN_ALONE void scores_of_units(const QuadRows<Words>& q, Index depth, Keys keys, float* scores) {
  F acc[kQuad * N];  // [rows, units]
  each<kQuad * N>([&](int i) HSATTN_ALWAYS { acc[i] = zero(); });
  for (Index d = 0; d < depth; d += kStep) {
    F k[N];
    each<N>([&](int u) HSATTN_ALWAYS { k[u] = keys(u, d * kUnit); });
    each<kQuad>([&](int r) HSATTN_ALWAYS {
      const F x = set_step(q.words + r * q.stride + d);
      each<N>([&](int u) HSATTN_ALWAYS { acc[r * N + u] = Words::add_products(acc[r * N + u], x, k[u]); });
    });
  }
  each<kQuad * N / kStep>([&](int i) HSATTN_ALWAYS {
    const F sums = sums_of_steps(acc + i * kStep);
    const F score = Words::kPerWord == 1 ? sums : mul(sums, set1(q.factor));
    store(scores + i * kStep / N * kPanel + i * kStep % N * kUnit, score);
  });
}

// [4, 64] scores of a panel's first `units` units; what stands behind them is left alone or rubbish.
template <class Words, class Keys>
HSATTN_INLINE void scores_of_panel(const QuadRows<Words>& q, Index depth, const Keys& keys, int units, float* scores) {
  constexpr int N = Keys::kAtOnce;
  constexpr int kWhole = static_cast<int>(kPanelUnits) / N * N, kRest = static_cast<int>(kPanelUnits) - kWhole;
  for (int u = 0; u < kWhole && u < units; u += N) {
    scores_of_units<Words, N>(q, depth, keys.from(u), scores + u * kUnit);
  }
  if constexpr (kRest > 0) {
    if (units > kWhole) scores_of_units<Words, kRest>(q, depth, keys.from(kWhole), scores + kWhole * kUnit);
  }
}

// Keys of a panel whose weights may not be 0: those of its first units,
struct FirstUnits {
  int units;

  template <int kRows, class Body>
  HSATTN_ALWAYS void each_row(const Body& body) const {
    for (int u = 0; u < units; ++u) {
#pragma GCC unroll 8
      for (int j = 0; j < kRows; ++j) body(u, j);
    }
  }
};

// or, where blocks are smaller than a unit, those that some row sees: keys, or pairs of them.
struct SeenKeys {
  std::uint8_t at[kPanel];
  int count = 0;

  template <class Words>
  HSATTN_ALWAYS void find(const std::uint64_t* seen) {
    std::uint64_t any = seen[0] | seen[1] | seen[2] | seen[3];
    if constexpr (Words::kPerWord == 2) any = (any | any >> 1) & 0x5555555555555555ULL;
    count = 0;
    for (; any != 0; any &= any - 1) at[count++] = static_cast<std::uint8_t>(__builtin_ctzll(any) / Words::kPerWord);
  }
  template <int kRows, class Body>
  HSATTN_ALWAYS void each_row(const Body& body) const {
    for (int i = 0; i < count; ++i) body(at[i] / kRows, at[i] % kRows);
  }
};

// acc[r] = scale[r] acc[r] + sum_j p[r][j] row(j), in the order of j, over `keys`. N vectors of columns. For Pairs, p
// and the rows are pairs of keys.
template <class Words, int N, class RowOf, class Keys>
HSATTN_ALONE void weighted_rows_of_vectors(const float* p, const float* scale, RowOf row_of, const Keys& keys,
                                           Index column, float* acc, Index acc_stride) {
  F o[kQuad * N];  // [rows, vectors]
  each<kQuad * N>([&](int i) HSATTN_ALWAYS {
    o[i] = mul(set1(scale[i / N]), load(acc + i / N * acc_stride + column + i % N * kLanes));
  });
  constexpr int kRows = static_cast<int>(kUnit) / Words::kPerWord;
  keys.template each_row<kRows>([&](int u, int j) HSATTN_ALWAYS {
    const float* row = row_of(u, j) + column;
    F x[N];
    each<N>([&](int c) HSATTN_ALWAYS { x[c] = load(row + c * kLanes); });
    each<kQuad>([&](int r) HSATTN_ALWAYS {
      const F w = set1(p[r * kPanel + u * kRows + j]);
      each<N>([&](int c) HSATTN_ALWAYS { o[r * N + c] = Words::add_products(o[r * N + c], w, x[c]); });
    });
  });
  each<kQuad * N>([&](int i) HSATTN_ALWAYS { store(acc + i / N * acc_stride + column + i % N * kLanes, o[i]); });
}

template <class Words, class RowOf, class Keys>
HSATTN_INLINE void weighted_rows(const float* p, const float* scale, RowOf row_of, const Keys& keys, Index padded_dim,
                                 float* acc) {
  constexpr int kMost = kLanes == 16 ? 4 : 3;  // 16 or 12 accumulators
  Index column = 0;
  for (; column + kMost * kLanes <= padded_dim; column += kMost * kLanes)
    weighted_rows_of_vectors<Words, kMost>(p, scale, row_of, keys, column, acc, padded_dim);
  const Index rest = (padded_dim - column) / kLanes;
  if (rest == 3) weighted_rows_of_vectors<Words, 3>(p, scale, row_of, keys, column, acc, padded_dim);
  if (rest == 2) weighted_rows_of_vectors<Words, 2>(p, scale, row_of, keys, column, acc, padded_dim);
  if (rest == 1) weighted_rows_of_vectors<Words, 1>(p, scale, row_of, keys, column, acc, padded_dim);
}

// The same over a panel's keys, skipping those that nobody sees where it pays: half of them, since going through a list
// costs.
template <class Words, class RowOf>
HSATTN_INLINE void weighted_rows_of_panel(const float* p, const float* scale, RowOf row_of, const Panel& panel,
                                          Index padded_dim, float* acc) {
  const std::uint64_t any = panel.seen[0] | panel.seen[1] | panel.seen[2] | panel.seen[3];
  if (panel.all_seen || 2 * __builtin_popcountll(any) > panel.units * static_cast<int>(kUnit)) {
    weighted_rows<Words>(p, scale, row_of, FirstUnits{panel.units}, padded_dim, acc);
    return;
  }
  SeenKeys keys;
  keys.find<Words>(panel.seen);
  weighted_rows<Words>(p, scale, row_of, keys, padded_dim, acc);
}

// The same sums, same bits, touching only rows that are seen: for values that are not finite.
template <class Words, class RowOf>
HSATTN_INLINE void weighted_rows_seen(const float* p, const float* scale, const std::uint64_t* seen, RowOf row_of,
                                      Index padded_dim, float* acc) {
  constexpr int kPer = Words::kPerWord, kRows = static_cast<int>(kUnit) / kPer;
  for (int r = 0; r < kQuad; ++r) {
    float* o = acc + r * padded_dim;
    for (Index c = 0; c < padded_dim; c += kLanes) {
      F sum = mul(set1(scale[r]), load(o + c));
      for (int j = 0; j < kPanel / kPer; ++j) {
        const unsigned word = static_cast<unsigned>(seen[r] >> (j * kPer)) & ((1U << kPer) - 1U);
        if (word == 0) continue;
        const F row = Words::masked(load(row_of(j / kRows, j % kRows) + c), word);
        sum = Words::add_products(sum, set1(p[r * kPanel + j]), row);
      }
      store(o + c, sum);
    }
  }
}

struct UnitRows {
  const float* const* base;
  Index padded_dim;
  __attribute__((always_inline)) const float* operator()(int u, int j) const { return base[u] + j * padded_dim; }
};

struct NodeRows {
  const float* const* row;  // [64]
  __attribute__((always_inline)) const float* operator()(int u, int j) const { return row[u * kUnit + j]; }
};

// Rounds [4, 64] weights to pairs of neighbouring keys, [4, 32] with the same stride.
template <class Words>
HSATTN_INLINE void round_weights([[maybe_unused]] const float* weights, [[maybe_unused]] float* words) {
  if constexpr (Words::kPerWord == 2) {
    for (int r = 0; r < kQuad; ++r) {
      const float* row = weights + r * kPanel;
      for (int c = 0; c < kPanel; c += 2 * kLanes) {
        store(words + r * kPanel + c / 2, Words::neighbours(load(row + c), load(row + c + kLanes)));
      }
    }
  }
}

// Vectors of a row that hold the first `units` units.
HSATTN_INLINE int vectors_of(int units) { return (units + kUnitsPerVector - 1) / kUnitsPerVector; }

// Scores that the row does not see become kMasked, in the first `vectors` of each row.
HSATTN_INLINE void mask_scores(float* scores, const std::uint64_t* seen, int vectors) {
  for (int r = 0; r < kQuad; ++r) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(seen + r);
    for (int c = 0; c < vectors; ++c) {
      float* s = scores + r * kPanel + c * kLanes;
      store(s, select(lanes_of(bytes + c * kUnitsPerVector), load(s), set1(kMasked)));
    }
  }
}

// Row sums of weights, per lane of a unit. Pairs are divided by the sum of what they were rounded to, so that a key
// that takes all has a weight of exactly 1; lse comes from the weights before that.
struct RowSums {
  H exact, rounded;
};

// The first `vectors` of one row's scores become weights exp(score) 2^-m, and are added to the sums.
template <class Words, bool kHuge, bool kFar>
HSATTN_INLINE void weights_of_row(float* row, int vectors, float m, RowSums& sums) {
  const F floor = set1(negligible_below<kHuge>(m));
  for (int c = 0; c < vectors; ++c) {
    const F p = exp_minus<kHuge>(max_keep_nan(floor, load(row + c * kLanes)), set1(m));
    if constexpr (!kFar) sums.exact = add_units(sums.exact, p);
    const F word = Words::rounded(p);
    if constexpr (Words::kPerWord == 2) sums.rounded = add_units(sums.rounded, word);
    store(row + c * kLanes, word);
  }
}

// The running maxima `best` of 4 rows take in a panel's scores; rescale[r] = 2^(old m - m). used[r] is m, an exponent
// that weights are relative to, or 0 where the row has seen nothing.
HSATTN_INLINE void raise_maxima(const float* scores, int vectors, float* best, float* rescale, float* used) {
  F top[kQuad];
  for (int r = 0; r < kQuad; ++r) {
    top[r] = set1(kMasked);
    for (int c = 0; c < vectors; ++c) top[r] = max_keep_nan(load(scores + r * kPanel + c * kLanes), top[r]);
  }
  float largest[kQuad];
  store_maxima_of_quad(top, largest);
  for (int r = 0; r < kQuad; ++r) {
    const float old = exponent_above(best[r]);
    if (largest[r] > max_of(best[r], kMasked)) best[r] = largest[r];
    const float now = exponent_above(best[r]);
    used[r] = now == -__builtin_inff() ? 0.0F : now;
    rescale[r] = now == old ? 1.0F : power_of_two(old - now);
  }
}

// One step of the running softmax: scores [4, 64], of which the first `vectors` of each row and of these `keys` are
// real, become weights exp(score) 2^-m; m is the running maximum in the log2 domain, rounded up to an integer so that
// rescaling is exact; rescale[r] = 2^(old m - m).
//
// Row sums stay apart for the 8 lanes of a unit (kFar false), or are one chain over the nodes (kFar true), so that
// their bits do not depend on how entries fall into panels.
template <class Words, bool kFar>
HSATTN_INLINE void softmax_step(float* scores, int vectors, int keys, Index at, Scratch& s, float* rescale) {
  constexpr bool kPairs = Words::kPerWord == 2;
  float* const far_sum = s.far_sum + at;
  float used[kQuad];
  raise_maxima(scores, vectors, s.max + at, rescale, used);
  for (int r = 0; r < kQuad; ++r) {
    float* const exact = s.sums + (at + r) * kUnit;
    float* const rounded = kPairs ? s.rounded_sums + (at + r) * kUnit : exact;
    RowSums sums{half_mul(half_load(exact), rescale[r]),
                 kPairs ? half_mul(half_load(rounded), rescale[r]) : half_zero()};
    if (used[r] > kHugeExponent || used[r] < -kHugeExponent) {
      weights_of_row<Words, true, kFar>(scores + r * kPanel, vectors, used[r], sums);
    } else {
      weights_of_row<Words, false, kFar>(scores + r * kPanel, vectors, used[r], sums);
    }
    half_store(exact, sums.exact);
    if constexpr (kPairs) half_store(rounded, sums.rounded);
    far_sum[r] *= rescale[r];
  }
  if constexpr (kFar) {
    for (int j = 0; j < keys; ++j)
      for (int r = 0; r < kQuad; ++r) far_sum[r] += scores[r * kPanel + j];
  }
}

// Dot products of 4 query rows with N rows of a table, lane by lane; padded_dim a multiple of the vector. lanes[r * 4 +
// i].
template <int N>
HSATTN_ALONE void dots_of_some_rows(const float* q, Index padded_dim, const float* const* row, F* lanes) {
  F acc[kQuad * N];
  each<kQuad * N>([&](int i) HSATTN_ALWAYS { acc[i] = zero(); });
  for (Index d = 0; d < padded_dim; d += kLanes) {
    F k[N];
    each<N>([&](int i) HSATTN_ALWAYS { k[i] = load(row[i] + d); });
    each<kQuad>([&](int r) HSATTN_ALWAYS {
      const F x = load(q + r * padded_dim + d);
      each<N>([&](int i) HSATTN_ALWAYS { acc[r * N + i] = fma(x, k[i], acc[r * N + i]); });
    });
  }
  each<kQuad * N>([&](int i) HSATTN_ALWAYS { lanes[i / N * 4 + i % N] = acc[i]; });
}

// Dot products of 4 query rows with 4 rows of a table. out[r * stride + i].
HSATTN_INLINE void dots_of_rows(const float* q, Index padded_dim, const float* const* row, float* out, Index stride) {
  F lanes[kQuad * 4];
  if constexpr (kLanes == 16) {
    dots_of_some_rows<4>(q, padded_dim, row, lanes);
  } else {  // 16 accumulators would leave no register for a key
    dots_of_some_rows<2>(q, padded_dim, row, lanes);
    dots_of_some_rows<2>(q, padded_dim, row + 2, lanes + 2);
  }
  store_sums(lanes, out, stride);
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
