// Scores of queries and keys rounded to bytes: exact integers, times the scales of both.
#pragma once

#include "hsattn/kernels/cpu/cell-inl.h"
#include "hsattn/kernels/quantize.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

#if defined(HSATTN_BYTE_TILES)  // an expression: whether tile registers may be used
#include "hsattn/kernels/cpu/tile_registers.h"
#endif

// Rows of rounded queries: bytes [rows, padded dim], their scales, and what offsets the 128 in the keys.
struct RoundedRows {
  const std::int8_t* bytes;
  const float* scale;
  const std::int32_t* sum;
};

// Vectors of keys that 4 rows meet at once: 16 or 8 accumulators.
constexpr int kRoundedVectors = kLanes == 16 ? 4 : 2;
constexpr int kRoundedUnits = kRoundedVectors * kUnitsPerVector;

// Units that 4 rows meet at once: bytes [padded dim / 4, 8, 4] and 8 scales each.
struct RoundedPanel {
  const std::uint8_t* bytes[kRoundedUnits];
  const float* scales[kRoundedUnits];
};

#if !defined(HSATTN_SIMD_AVX2)
// As quantize() rounds, for a unit of pairs without NaN and Inf.
HSATTN_INLINE void round_pairs(const PackedHead& head, Index unit, std::uint8_t* bytes, float* scales) {
  const float* const words = head.tiles ? column(head.keys_t, unit) : head.keys_t[unit];
  const auto four_dims = [&](Index i) HSATTN_ALWAYS {  // [8 tokens, 2 words]
    return head.tiles ? interleaved(words + 2 * i * kLanes, words + (2 * i + 1) * kLanes) : load(words + i * kLanes);
  };
  const Index steps = head.depth / 2;
  F top = zero();
  for (Index i = 0; i < steps; ++i) {
    const F x = and_bits(four_dims(i), 0x7fff7fffU);
    top = max_keep_nan(top, max_keep_nan(lower_numbers(x), and_bits(x, 0xffff0000U)));
  }
  alignas(64) float inverse[kLanes];
  store(inverse, max_keep_nan(top, swap_neighbours(top)));
  for (int token = 0; token < static_cast<int>(kUnit); ++token) {
    const float largest = inverse[2 * token];
    const bool tiny = !(largest > 1e-30F);
    scales[token] = tiny ? 0.0F : largest / static_cast<float>(kKeyLevels);
    inverse[2 * token] = inverse[2 * token + 1] = tiny ? 0.0F : static_cast<float>(kKeyLevels) / largest;
  }
  const F factor = load(inverse);
  const auto away_from_zero = [](F x) HSATTN_ALWAYS { return add(x, or_bits(set1(0.5F), and_bits(x, 0x80000000U))); };
  for (Index i = 0; i < head.padded_dim / 4; ++i) {
    const F x = i < steps ? four_dims(i) : zero();
    const F low = mul(lower_numbers(x), factor), high = mul(and_bits(x, 0xffff0000U), factor);
    store_as_bytes(away_from_zero(low), away_from_zero(high), bytes + i * 4 * kUnit);
  }
}
#endif

// Rounds the keys of a unit as they are attended.
static void round_unit(const PackedHead& head, Index unit, std::uint8_t* bytes, float* scales) {
#if !defined(HSATTN_SIMD_AVX2)
  if (head.pairs && (*head.not_finite[unit] & 1U) == 0) return round_pairs(head, unit, bytes, scales);
#endif
  round_packed_keys(head, unit, bytes, scales);
}

// Asks for memory ahead of its use.
HSATTN_INLINE void fetch_lines(const void* begin, Index bytes) {
  for (Index at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const char*>(begin) + at);
}

// Where rounded keys come from: tables of them,
struct RoundedUnits {
  const Units<std::uint8_t>& bytes;
  const Units<float>& scales;

  HSATTN_ALWAYS void fetch(Index unit) const { fetch_lines(bytes[unit], bytes.size); }
  HSATTN_ALWAYS void find(const Index* units, RoundedPanel& panel) {
    for (int u = 0; u < kRoundedUnits; ++u) {
      panel.bytes[u] = bytes[units[u]];
      panel.scales[u] = scales[units[u]];
    }
  }
};

// or keys as they are attended, which are rounded now.
struct RoundedHere {
  const PackedHead& head;
  alignas(64) std::uint8_t bytes[kRoundedUnits * kUnit * kMaxDim];
  alignas(64) float scales[kRoundedUnits * kUnit];

  explicit RoundedHere(const PackedHead& packed) : head(packed) {}
  HSATTN_ALWAYS void fetch(Index unit) const {
    fetch_lines(head.tiles ? column(head.keys_t, unit) : head.keys_t[unit], head.depth * head.columns * 4);
  }
  void find(const Index* units, RoundedPanel& panel) {
    for (int u = 0; u < kRoundedUnits; ++u) {
      std::uint8_t* to = bytes + u * kUnit * head.padded_dim;
      round_unit(head, units[u], to, scales + u * kUnit);
      panel.bytes[u] = to;
      panel.scales[u] = scales + u * kUnit;
    }
  }
};

// Scores of 4 rows and kRoundedUnits units.
template <bool kVnni>
static __attribute__((noinline)) void rounded_scores_of_units(const RoundedRows& q, const RoundedPanel& keys,
                                                              Index padded, float* scores, Index stride) {
  constexpr int N = kRoundedVectors;
  I acc[kQuad][N];
  for (int r = 0; r < kQuad; ++r)
    for (int v = 0; v < N; ++v) acc[r][v] = int_set1(q.sum[r]);
  for (Index d = 0; d < padded; d += 4) {
    I k[N];
    for (int v = 0; v < N; ++v) k[v] = load_byte_units(keys.bytes + v * kUnitsPerVector, d * kUnit);
    for (int r = 0; r < kQuad; ++r) {
      std::int32_t four;
      __builtin_memcpy(&four, q.bytes + r * padded + d, sizeof four);
      const I x = int_set1(four);
      for (int v = 0; v < N; ++v) acc[r][v] = add_byte_products<kVnni>(acc[r][v], k[v], x);
    }
  }
  for (int v = 0; v < N; ++v) {
    const F key_scale = load_units(keys.scales + v * kUnitsPerVector, 0);
    for (int r = 0; r < kQuad; ++r) {
      store(scores + r * stride + v * kLanes, mul(to_float(acc[r][v]), mul(key_scale, set1(q.scale[r]))));
    }
  }
}

HSATTN_INLINE RoundedRows rounded_rows(const Cell& c, Index row) {
  const Index padded = c.job.packed->padded_dim, at = (c.q - c.s.q) / padded + row;
  return {c.s.q_int8 + at * padded, c.s.q_scales + at, c.s.q_sums + at};
}

// All rows of a cell and the units of a panel, whose scores begin at column `at`: by vectors,
template <bool kVnni>
struct ByVectors {
  explicit ByVectors(const Cell& /*cell*/) {}

  HSATTN_ALWAYS void score(const Cell& c, const RoundedPanel& panel, Index at) const {
    for (Index r = 0; r < c.rows(); r += kQuad) {
      rounded_scores_of_units<kVnni>(rounded_rows(c, r), panel, c.job.packed->padded_dim,
                                     c.s.scores + r * c.s.capacity + at, c.s.capacity);
    }
  }
};

#if defined(HSATTN_BYTE_TILES)
// or by tile registers: the same integers. Strips of as many rows, the last of which may begin within the one before.
class ByTiles {
 public:
  // Vectors take as long with 4 rows, 1.6 times as long with 8, 2.2 times with 12 (keys in the cache, a Xeon).
  static bool pays(const Cell& c) {
    return c.rows() > kQuad && c.job.packed->padded_dim % kDepth == 0 && HSATTN_BYTE_TILES;
  }

  explicit ByTiles(const Cell& c) : rows_(rows_of_strip(c.rows())), registers_(shapes(rows_)) {}

  HSATTN_ALWAYS void score(const Cell& c, const RoundedPanel& panel, Index at) const {
    for (Index r = 0; r < c.rows(); r += rows_) {
      const Index first = min_of(r, c.rows() - rows_);
      score_strip(rounded_rows(c, first), panel, c.job.packed->padded_dim, c.s.scores + first * c.s.capacity + at,
                  c.s.capacity);
    }
  }

 private:
  static constexpr Index kDepth = 64;  // dimensions of one product: 16 words of 4 bytes
  static constexpr int kSums = 4;      // units side by side, in registers 0 to 3; 4: rows; 5: keys of a unit
  static constexpr int kColumns = kRoundedUnits * static_cast<int>(kUnit);

  static Index rows_of_strip(Index rows) {
    const Index strips = (rows + kStrip - 1) / kStrip;
    return (rows + strips - 1) / strips;
  }
  static TileShapes shapes(Index rows) {
    const auto r = static_cast<std::uint8_t>(rows);
    return {{r, r, r, r, r, 16, 0, 0}, {kUnit, kUnit, kUnit, kUnit, 16, kUnit, 0, 0}};
  }

  __attribute__((noinline)) void score_strip(const RoundedRows& q, const RoundedPanel& panel, Index padded,
                                             float* scores, Index stride) const {
    alignas(64) float sums[kStrip * kColumns];  // as integers' bits
    for (int unit = 0; unit < kRoundedUnits; unit += kSums) {
      each_register<kSums>([](auto u) HSATTN_ALWAYS { tile_zero<u.value>(); });
      for (Index d = 0; d < padded; d += kDepth) {
        tile_load<4>(reinterpret_cast<const float*>(q.bytes + d), padded / 4);
        each_register<kSums>([&](auto u) HSATTN_ALWAYS {
          tile_load<5>(reinterpret_cast<const float*>(panel.bytes[unit + u.value] + d * kUnit), kUnit);
          tile_add_byte_products<u.value, 4, 5>();
        });
      }
      each_register<kSums>([&](auto u) HSATTN_ALWAYS {
        tile_store<u.value>(sums + (unit + u.value) * static_cast<int>(kUnit), kColumns);
      });
    }
    for (int v = 0; v < kRoundedVectors; ++v) {
      const F key_scale = load_units(panel.scales + v * kUnitsPerVector, 0);
      for (Index r = 0; r < rows_; ++r) {
        const I sum = int_add(integer_bits(load(sums + r * kColumns + v * kLanes)), int_set1(q.sum[r]));
        store(scores + r * stride + v * kLanes, mul(to_float(sum), mul(key_scale, set1(q.scale[r]))));
      }
    }
  }

  Index rows_;  // of a strip
  TileRegisters registers_;
};
#endif

template <class Products, class Keys, class UnitOf>
static void rounded_scores_by(Cell& c, Keys&& keys, Index count, const UnitOf& unit_of) {
  const Products products(c);
  RoundedPanel panel;
  // A step of decoding finds its past in no cache: 18 % less time for it (16384 tokens, on a Xeon). A prefill has more
  // positions, and gains nothing by it.
  const bool fetch = c.positions == 1;
  constexpr Index kAhead = 2 * kRoundedUnits;
  for (Index i = 0; i < count; i += kRoundedUnits) {
    Index units[kRoundedUnits];
    for (Index u = i + kAhead; fetch && u < min_of(count, i + kAhead + kRoundedUnits); ++u) {
      keys.fetch(unit_of(u));
    }
    for (int u = 0; u < kRoundedUnits; ++u) units[u] = unit_of(i + u);
    keys.find(units, panel);
    products.score(c, panel, i * kUnit);
  }
}

// Scores of all rows of the cell and `count` units, a multiple of 8: [rows, capacity] in c.s.scores.
template <class Keys, class UnitOf>
static void rounded_scores(Cell& c, Keys&& keys, Index count, const UnitOf& unit_of) {
#if defined(HSATTN_BYTE_TILES)
  if (ByTiles::pays(c)) return rounded_scores_by<ByTiles>(c, keys, count, unit_of);
#endif
  if (has_vnni()) {
    rounded_scores_by<ByVectors<true>>(c, keys, count, unit_of);
  } else {
    rounded_scores_by<ByVectors<false>>(c, keys, count, unit_of);
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
