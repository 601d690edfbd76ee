// Scores of queries and keys rounded to bytes: exact integers, times the scales of both.
#pragma once

#include "hsattn/kernels/cpu/cell-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// Rows of rounded queries: bytes [4, padded dim], their scales, and what offsets the 128 in the keys.
struct RoundedRows {
  const std::int8_t* bytes;
  const float* scale;
  const std::int32_t* sum;
};

// Units of 8 rounded keys: bytes [padded dim / 4, 8, 4] and 8 scales each.
struct RoundedUnits {
  const std::uint8_t* bytes;
  const float* scales;
};

// Vectors of keys that 4 rows meet at once: 16 or 8 accumulators.
constexpr int kRoundedVectors = kLanes == 16 ? 4 : 2;
constexpr int kRoundedUnits = kRoundedVectors * kUnitsPerVector;

// Scores of 4 rows and kRoundedUnits units.
template <bool kVnni>
static __attribute__((noinline)) void rounded_scores_of_units(const RoundedRows& q, const RoundedUnits& keys,
                                                              const Index* units, Index padded, float* scores,
                                                              Index stride) {
  constexpr int N = kRoundedVectors;
  const std::uint8_t* unit[kRoundedUnits];
  for (int u = 0; u < kRoundedUnits; ++u) unit[u] = keys.bytes + units[u] * kUnit * padded;
  I acc[kQuad][N];
  for (int r = 0; r < kQuad; ++r)
    for (int v = 0; v < N; ++v) acc[r][v] = int_set1(q.sum[r]);
  for (Index d = 0; d < padded; d += 4) {
    I k[N];
    for (int v = 0; v < N; ++v) k[v] = load_byte_units(unit + v * kUnitsPerVector, d * kUnit);
    for (int r = 0; r < kQuad; ++r) {
      std::int32_t four;
      __builtin_memcpy(&four, q.bytes + r * padded + d, sizeof four);
      const I x = int_set1(four);
      for (int v = 0; v < N; ++v) acc[r][v] = add_byte_products<kVnni>(acc[r][v], k[v], x);
    }
  }
  const float* scale[kRoundedUnits];
  for (int u = 0; u < kRoundedUnits; ++u) scale[u] = keys.scales + units[u] * kUnit;
  for (int v = 0; v < N; ++v) {
    const F key_scale = load_units(scale + v * kUnitsPerVector, 0);
    for (int r = 0; r < kQuad; ++r) {
      store(scores + r * stride + v * kLanes, mul(to_float(acc[r][v]), mul(key_scale, set1(q.scale[r]))));
    }
  }
}

template <bool kVnni, class UnitOf>
static void rounded_scores_as(Cell& c, const RoundedUnits& keys, Index count, const UnitOf& unit_of) {
  const Index padded = c.job.packed->padded_dim, capacity = c.s.capacity;
  const Index row0 = (c.q - c.s.q.get()) / padded;
  for (Index i = 0; i < count; i += kRoundedUnits) {
    Index units[kRoundedUnits];
    for (int u = 0; u < kRoundedUnits; ++u) units[u] = unit_of(i + u);
    for (Index r = 0; r < c.rows(); r += kQuad) {
      const Index row = row0 + r;
      const RoundedRows rows{c.s.q_int8.get() + row * padded, c.s.q_scales.get() + row, c.s.q_sums.get() + row};
      rounded_scores_of_units<kVnni>(rows, keys, units, padded, c.s.scores.get() + r * capacity + i * kUnit, capacity);
    }
  }
}

// Scores of all rows of the cell and `count` units, a multiple of 8: [rows, capacity] in c.s.scores.
template <class UnitOf>
static void rounded_scores(Cell& c, const RoundedUnits& keys, Index count, const UnitOf& unit_of) {
  if (has_vnni()) {
    rounded_scores_as<true>(c, keys, count, unit_of);
  } else {
    rounded_scores_as<false>(c, keys, count, unit_of);
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
