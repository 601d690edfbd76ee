// How the CPU kernels see one key/value head: units of 8 tokens, packed once, whatever the block size of the plan.
//
// Everything a row may attend is an entry: a unit and, for each of the 4 rows of a quad, the lanes (tokens) of the unit
// that the row sees. Causality, ragged tails, window edges, blocks below 8 tokens and selection all have this one form.
#pragma once

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

// Levels of pooled keys (and values): nodes of all levels one after another, coarser levels later.
struct PackedPyramid {
  static constexpr int kMaxLevels = 40;
  int levels = 0;
  Index first[kMaxLevels + 1] = {};       // [levels + 1]: level l owns rows [first[l], first[l + 1])
  Index first_unit[kMaxLevels + 1] = {};  // the same, in units of 8 nodes
  Buffer<float> keys;                     // [rows, padded dim]
  Buffer<float> values;                   // [rows, padded dim]; only with the far field
  Buffer<std::uint8_t> keys_int8;         // [units, padded dim / 4, 8, 4]: rounded keys plus 128; only to search
  Buffer<float> key_scales;               // [units, 8]
  Index rows() const { return first[levels]; }
  Index units() const { return first_unit[levels]; }
};

// One key/value head, packed. Tokens past the end are zeros that no row sees.
//
// Keys and values as they are attended are made of words: floats, or pairs of bfloat16 (the first in the low half). A
// pair joins what a product adds up: neighbouring dimensions in keys_t and values_t, neighbouring tokens in the others.
// These two hold a unit in steps of one vector: the next word of each token, or the next two where 16 lanes leave room
// (taking halves of vectors from two units instead costs Intel's processors a fifth of the time of scores).
//
// Kernels with tile registers want `tiles`: columns of 16 tokens, so that 16 pairs of dimensions of them are one tile,
// and whole groups of 4 units, whose values are one tile for each 16 dimensions.
struct PackedHead {
  Index keys = 0, dim = 0, padded_dim = 0, units = 0;
  bool pairs = false;
  bool tiles = false;               // with pairs only
  Index columns = kUnit;            // tokens side by side in keys_t: 8, or 16
  Index step = 1;                   // words of a token side by side in keys_t: 1 or 2
  Index depth = 0;                  // words of a token in keys_t: dim, or half of it, rounded up to steps or tiles
  Index unit_rows = kUnit;          // rows of words of a unit in values: 8, or 4
  Buffer<float> keys_t;             // [tokens / columns, depth / step, columns, step]; not for a search alone
  Buffer<float> values;             // [units, unit rows, padded dim]
  Buffer<float> values_t;           // as keys_t; backward only
  Buffer<float> key_rows;           // [units, unit rows, padded dim]; backward only
  Buffer<std::uint8_t> keys_int8;   // [units, padded dim / 4, 8, 4]: rounded keys plus 128; rescoring only
  Buffer<float> key_scales;         // [units, 8]
  Buffer<std::uint8_t> not_finite;  // [units]: bit 0 a key, bit 1 a value is NaN or Inf
  bool any_not_finite = false;
  PackedPyramid pyramid;
};

}  // namespace hsattn::cpu
