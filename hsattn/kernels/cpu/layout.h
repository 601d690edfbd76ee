// How the CPU kernels see one key/value head: units of 8 tokens, packed once, whatever the block size of the plan.
//
// Everything a row may attend is an entry: a unit and, for each of the 4 rows of a quad, the lanes (tokens) of the unit
// that the row sees. Causality, ragged tails, window edges, blocks below 8 tokens and selection all have this one form.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hsattn/base/buffer.h"
#include "hsattn/base/types.h"
#include "hsattn/plan/plan.h"

namespace hsattn::cpu {

constexpr Index kUnit = 8;                     // tokens of a unit: one AVX2 vector, half an AVX-512 vector
constexpr Index kQuad = 4;                     // rows that a micro-kernel works on at once
constexpr Index kPanelUnits = 8;               // units of one panel
constexpr Index kPanel = kUnit * kPanelUnits;  // keys of one panel
constexpr Index kStrip = 16;                   // rows that one tile register holds: 4 quads
constexpr Index kTile = 64;                    // positions whose quads walk their lists side by side
constexpr Index kSideBySide = 32;  // quads of a tile that walk side by side; more only spread over the cache
constexpr Index kDimAlign = 16;    // rows are padded to this many floats
constexpr Index kMaxDim = 256;
constexpr float kLog2e = 1.44269504088896340736F;
constexpr float kLn2 = 0.69314718055994530942F;
constexpr float kMasked = -3.0e38F;  // score of a token that is not seen; finite, so that no NaN arises from it

// Lanes [begin, end) of a unit, clipped to it. Inlined everywhere: no copy of it may end up in a file with vector flags
// and be called from others.
__attribute__((always_inline)) constexpr std::uint32_t lane_bits(Index begin, Index end) {
  const Index a = begin < 0 ? 0 : begin > kUnit ? kUnit : begin;
  const Index b = end < 0 ? 0 : end > kUnit ? kUnit : end;
  return a >= b ? 0U : ((1U << b) - 1U) & ~((1U << a) - 1U);
}

// A unit and the lanes of it that each row sees: byte r of `lanes` belongs to row r, bit j of the byte to token j.
struct Entry {
  std::int32_t unit;
  std::uint32_t lanes;
};

// A pooled node and the rows that see it (byte r is 0x00 or 0xff), for the far field.
struct FarEntry {
  std::int32_t row;  // of the pyramid's storage, see PackedPyramid
  float bias;        // log(tokens)
  std::uint32_t rows;
};

// Where the search of one position found the threshold of a stage: the next position's is close by.
struct Hint {
  float value = 0;
  float spread = 0;  // distance in which few scores lie
};

// Where units (or rows) of one kind lie: all in one run, or in pages of 2^shift units each, as a cache grows by.
template <class T>
struct Units {
  T* run = nullptr;
  Index size = 0;                     // elements of a unit
  std::byte* const* pages = nullptr;  // if there is no run
  Index offset = 0;                   // bytes of a page before the first unit of this kind
  int shift = 0;

  __attribute__((always_inline)) bool empty() const { return run == nullptr && pages == nullptr; }
  __attribute__((always_inline)) T* operator[](Index unit) const {
    if (run != nullptr) return run + unit * size;
    const Index in_page = unit & ((Index{1} << shift) - 1);
    return reinterpret_cast<T*>(pages[unit >> shift] + offset) + in_page * size;
  }
};

// Pooled keys (and values) of one level.
struct PackedLevel {
  Units<float> keys;              // nodes, [padded dim] each
  Units<float> values;            // the same; only with the far field
  Units<std::uint8_t> keys_int8;  // units of 8 nodes, [padded dim / 4, 8, 4]: rounded keys plus 128; only to search
  Units<float> key_scales;        // units of 8 nodes, [8]
};

// Levels of nodes, coarser ones later. Rows number the nodes of all levels one after another.
struct PackedPyramid {
  static constexpr int kMaxLevels = 40;
  int levels = 0;
  Index first[kMaxLevels + 1] = {};  // [levels + 1]: level l owns rows [first[l], first[l + 1])
  PackedLevel level[kMaxLevels];
  PackedLevel parts;  // of the smallest nodes, if they are scored by parts: rounded keys, and values of a tail
  Index rows() const { return first[levels]; }
};

// Where a tail's mean values lie: those of the parts of the smallest nodes, or of the nodes themselves.
template <class Pyramid>
__attribute__((always_inline)) inline auto& tail_values(Pyramid& pyramid, Index parts) {
  return parts > 1 ? pyramid.parts.values : pyramid.level[0].values;
}

// One key/value head, packed. Tokens past the end are zeros that no row sees.
//
// Keys and values as they are attended are made of words: floats, or pairs of bfloat16 (the first in the low half). A
// pair joins what a product adds up: neighbouring dimensions in keys_t and values_t, neighbouring tokens in the others.
// These two hold a unit in steps of one vector: the next word of each token, or the next two where 16 lanes leave room
// (taking halves of vectors from two units instead costs Intel's processors a fifth of the time of scores).
//
// Kernels with tile registers want `tiles`: columns of 16 tokens, so that 16 pairs of dimensions of them are one tile,
// and whole groups of 4 units, whose values are one tile for each 16 dimensions. Two units stand side by side then: the
// odd one begins 8 words behind the even one, see column().
struct PackedHead {
  Index keys = 0, dim = 0, padded_dim = 0, units = 0;
  bool pairs = false;
  bool tiles = false;              // with pairs only
  Index columns = kUnit;           // tokens side by side in keys_t: 8, or 16
  Index step = 1;                  // words of a token side by side in keys_t: 1 or 2
  Index depth = 0;                 // words of a token in keys_t: dim, or half of it, rounded up to steps or tiles
  Index unit_rows = kUnit;         // rows of words of a unit in values: 8, or 4
  Units<float> keys_t;             // [depth / step, columns, step] each; not for a search alone
  Units<float> values;             // [unit rows, padded dim]
  Units<float> values_t;           // as keys_t; backward only
  Units<float> key_rows;           // [unit rows, padded dim]; backward only
  Units<std::uint8_t> keys_int8;   // [padded dim / 4, 8, 4]: rounded keys plus 128; rescoring only
  Units<float> key_scales;         // [8]
  Units<std::uint8_t> not_finite;  // [1]: bit 0 a key, bit 1 a value is NaN or Inf
  bool any_not_finite = false;     // a token or, with the far field, a node: given ones may be, and sums overflow
  PackedPyramid pyramid;
};

// The first word of a unit in keys_t or values_t of a head with tiles.
__attribute__((always_inline)) inline float* column(const Units<float>& packed, Index unit) {
  return packed[unit & ~Index{1}] + (unit & 1) * kUnit;
}

}  // namespace hsattn::cpu
