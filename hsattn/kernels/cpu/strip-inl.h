// Tile registers hold 16 rows: a strip of 4 quads, which walks the union of their entries. docs/design.md, "Kernels",
// says why the order of sums does not depend on who shares a strip.
#pragma once

#include "hsattn/kernels/cpu/forward-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

#include "hsattn/kernels/cpu/tile_registers.h"

constexpr int kStripRows = static_cast<int>(kStrip);
constexpr int kStripQuads = kStripRows / static_cast<int>(kQuad);
constexpr int kGroupUnits = 4;  // aligned units whose values fill one register, and are added up by one instruction
constexpr int kHalves = static_cast<int>(kPanelUnits) / kGroupUnits;
constexpr int kSlots = static_cast<int>(kPanelUnits);
constexpr int kHalfWords = kGroupUnits * static_cast<int>(kUnit) / 2;  // of a row of weights

// The next aligned group of units that some quad of a strip visits.
struct StripGroup {
  Index first = kNoUnit;  // unit of it that is visited first; none: kNoUnit
  int count = 0;          // units of it that are visited
  std::uint32_t lanes[kGroupUnits][kStripQuads];
};

struct StripCursor {
  Cursor quad[kStripQuads];
  StripGroup next;

  HSATTN_ALWAYS Index lowest_unit() const {
    Index unit = kNoUnit;
    for (const Cursor& c : quad) unit = min_of<Index>(unit, c.at < c.end ? c.at->unit : kNoUnit);
    return unit;
  }
  // Reads the next group. Which quads visit a unit cannot be predicted, so there is no branch for it.
  HSATTN_ALWAYS void read_group() {
    next.count = 0;
    next.first = lowest_unit();
    if (next.first == kNoUnit) return;
    __builtin_memset(next.lanes, 0, sizeof next.lanes);
    for (Index unit = next.first; unit / kGroupUnits == next.first / kGroupUnits; unit = lowest_unit(), ++next.count) {
      for (int q = 0; q < kStripQuads; ++q) {
        Cursor& c = quad[q];
        const bool visits = c.at < c.end && c.at->unit == unit;
        next.lanes[unit % kGroupUnits][q] = visits ? c.at->lanes : 0;
        c.at += visits ? 1 : 0;
      }
    }
  }
};

// Up to 8 units in two halves. A half is a whole group, or up to 4 units each of which is the only one of its group
// that the strip visits.
struct StripPanel {
  Index unit[kSlots];  // of each slot; kNoUnit: the slot is empty
  bool whole[kHalves];
  std::uint8_t seen[kStripRows][kSlots];  // lanes of each slot that each row sees
  unsigned has[kStripQuads];              // bit i: a row of the quad sees some of slot i
  bool all_seen;
  bool careful;  // holds a key or value that is not finite

  HSATTN_ALWAYS bool has_vector(int quad, int vector) const { return (has[quad] >> (2 * vector) & 3U) != 0; }
  HSATTN_ALWAYS std::uint64_t lanes(int row) const {
    std::uint64_t bits;
    __builtin_memcpy(&bits, seen[row], sizeof bits);
    return bits;
  }
};

// The lanes [quads, slots] that rows see, a byte of each word for each row of the quad.
struct StripLanes {
  alignas(64) std::uint32_t of[kStripQuads][kSlots] = {};

  HSATTN_ALWAYS void set(int slot, const std::uint32_t* quads) {
    for (int q = 0; q < kStripQuads; ++q) of[q][slot] = quads[q];
  }
};

// Takes groups into a half as long as they fit.
HSATTN_INLINE void take_half(StripCursor& cursor, int half, StripPanel& panel, StripLanes& lanes) {
  const int first = half * kGroupUnits;
  StripGroup& group = cursor.next;
  panel.whole[half] = group.count > 1;
  if (panel.whole[half]) {
    const Index unit = group.first / kGroupUnits * kGroupUnits;
    for (int u = 0; u < kGroupUnits; ++u) {
      panel.unit[first + u] = unit + u;
      lanes.set(first + u, group.lanes[u]);
    }
    cursor.read_group();
    return;
  }
  for (int slot = first; slot < first + kGroupUnits && group.count == 1; ++slot) {
    panel.unit[slot] = group.first;
    lanes.set(slot, group.lanes[group.first % kGroupUnits]);
    cursor.read_group();
  }
}

HSATTN_INLINE void take_strip_panel(const PackedHead& head, StripCursor& cursor, StripPanel& panel) {
  StripLanes lanes;
  for (Index& unit : panel.unit) unit = kNoUnit;
  for (int half = 0; half < kHalves; ++half) take_half(cursor, half, panel, lanes);
  std::uint32_t every = 0xffffffffU;
  for (int q = 0; q < kStripQuads; ++q) {
    panel.has[q] = 0;
    for (int slot = 0; slot < kSlots; ++slot) {
      panel.has[q] |= (lanes.of[q][slot] != 0 ? 1U : 0U) << slot;
      every &= lanes.of[q][slot];
    }
    transpose_bytes(lanes.of[q], panel.seen[q * kQuad]);
  }
  panel.all_seen = every == 0xffffffffU;
  panel.careful = false;
  if (!head.any_not_finite) return;
  for (const Index unit : panel.unit) panel.careful |= unit != kNoUnit && *head.not_finite[unit] != 0;
}

// The strip whose next unit is lowest, or -1 when all have arrived.
HSATTN_INLINE Index next_strip(const StripCursor* cursors, Index strips) {
  Index best = -1, lowest = kNoUnit;
  for (Index i = 0; i < strips; ++i) {
    const Index unit = cursors[i].next.first;
    if (unit >= lowest) continue;
    lowest = unit;
    best = i;
  }
  return best;
}

// Calls body(strip of the tile, its cursor) as long as it has entries, a panel at a time.
template <class Body>
HSATTN_INLINE void for_each_strip_panel(const Scratch& s, Index quads, Body body) {
  constexpr Index kTogether = kSideBySide / kStripQuads;
  const Index strips = (quads + kStripQuads - 1) / kStripQuads;
  for (Index base = 0; base < strips; base += kTogether) {
    StripCursor cursors[kTogether];
    const Index some = min_of<Index>(strips - base, kTogether);
    for (Index quad = base * kStripQuads; quad < min_of(quads, (base + some) * kStripQuads); ++quad) {
      const auto& entries = s.entries[quad];
      cursors[quad / kStripQuads - base].quad[quad % kStripQuads] = {entries.data(), entries.data() + entries.size()};
    }
    for (Index i = 0; i < some; ++i) cursors[i].read_group();
    for (Index i = next_strip(cursors, some); i >= 0; i = next_strip(cursors, some)) body(base + i, cursors[i]);
  }
}

// Two units of packed columns as one [depth, 16]: where they are if they stand side by side, else copied to `space`.
HSATTN_INLINE const float* columns_of_units(const Units<float>& packed, Index depth, Index a, Index b, float* space) {
  if (a % 2 == 0 && b == a + 1) return column(packed, a);
  const float* from[2] = {column(packed, a), column(packed, b == kNoUnit ? a : b)};
  for (Index word = 0; word < depth; ++word) store(space + word * kLanes, load_units(from, word * kLanes));
  return space;
}

// The columns of a panel's pairs of slots; null where both are empty.
struct StripColumns {
  const float* of[kVectors];
  alignas(64) float space[kVectors * kMaxDim / 2 * kLanes];

  HSATTN_ALWAYS void find(const Units<float>& packed, Index depth, const StripPanel& panel) {
    for (int c = 0; c < kVectors; ++c) {
      const Index a = panel.unit[2 * c], b = panel.unit[2 * c + 1];
      of[c] = a == kNoUnit ? nullptr : columns_of_units(packed, depth, a, b, space + c * (kMaxDim / 2 * kLanes));
    }
  }
};

// out[16][64] = rows [16, depth] times columns, by registers 0 to 5; columns that are null are left out.
HSATTN_INLINE void scores_of_strip(const float* rows, Index depth, const StripColumns& columns, float* out) {
  each_register<kVectors>([&](auto c) HSATTN_ALWAYS { tile_zero<c.value>(); });
  for (Index word = 0; word < depth; word += kLanes) {
    tile_load<4>(rows + word, depth);
    each_register<kVectors>([&](auto c) HSATTN_ALWAYS {
      if (columns.of[c.value] == nullptr) return;
      tile_load<5>(columns.of[c.value] + word * kLanes, kLanes);
      tile_add_products<c.value, 4, 5>();
    });
  }
  each_register<kVectors>([&](auto c) HSATTN_ALWAYS {
    if (columns.of[c.value] != nullptr) tile_store<c.value>(out + c.value * kLanes, kPanel);
  });
}

// Pairs [count] with 0 for numbers that are not finite.
HSATTN_INLINE void copy_finite_pairs(const float* from, Index count, float* to) {
  for (Index i = 0; i < count; i += kLanes) {
    const F x = load(from + i), upper = and_bits(x, 0xffff0000U);
    const F low = select(finite(lower_numbers(x)), and_bits(x, 0xffffU), zero());
    const F high = select(finite(upper), upper, zero());
    store(to + i, or_bits(low, high));
  }
}

// The rows of words of each slot of a panel, as `packed` has them; in careful panels copies without what is not finite.
struct StripRowsOfUnits {
  const float* of[kSlots];  // [4, padded dim]; of a whole half one behind the other
  alignas(64) float space[kSlots * 4 * kMaxDim];

  HSATTN_ALWAYS void find(const Units<float>& packed, const StripPanel& panel, bool together) {
    const Index size = packed.size;
    for (int slot = 0; slot < kSlots; ++slot) {
      of[slot] = nullptr;
      if (panel.unit[slot] == kNoUnit) {
        if (together) __builtin_memset(space + slot * size, 0, static_cast<std::size_t>(size) * sizeof(float));
        continue;
      }
      const float* from = packed[panel.unit[slot]];
      of[slot] = from;
      if (panel.careful) {
        copy_finite_pairs(from, size, space + slot * size);
      } else if (together && !panel.whole[slot / kGroupUnits]) {
        for (Index i = 0; i < size; i += kLanes) store(space + slot * size + i, load(from + i));
      } else {
        continue;
      }
      of[slot] = space + slot * size;
    }
  }
};

// acc[16][padded] += weights [16][32] times rows of units, for N vectors of columns from `column` on. Without
// `together` each single unit is added up by itself; with it all units of a half at once.
template <int N>
HSATTN_INLINE void weighted_rows_of_strip(const float* weights, const StripPanel& panel, const StripRowsOfUnits& rows,
                                          Index stride, Index column, bool together, float* acc, Index acc_stride) {
  constexpr Index kWords = kPanel / 2;
  each_register<N>([&](auto c) HSATTN_ALWAYS { tile_load<c.value>(acc + c.value * kLanes, acc_stride); });
  for (int half = 0; half < kHalves; ++half) {
    const int first = half * kGroupUnits;
    if (rows.of[first] == nullptr) continue;
    if (panel.whole[half] || together) {
      tile_load<4>(weights + half * kHalfWords, kWords);
      each_register<N>([&](auto c) HSATTN_ALWAYS {
        tile_load<5>(rows.of[first] + column + c.value * kLanes, stride);
        tile_add_products<c.value, 4, 5>();
      });
      continue;
    }
    for (int slot = first; slot < first + kGroupUnits && rows.of[slot] != nullptr; ++slot) {
      tile_load<6>(weights + slot * kHalfWords / kGroupUnits, kWords);
      each_register<N>([&](auto c) HSATTN_ALWAYS {
        tile_load<7>(rows.of[slot] + column + c.value * kLanes, stride);
        tile_add_products<c.value, 6, 7>();
      });
    }
  }
  each_register<N>([&](auto c) HSATTN_ALWAYS { tile_store<c.value>(acc + c.value * kLanes, acc_stride); });
}

HSATTN_INLINE void weighted_units_of_strip(const PackedHead& head, const float* weights, const StripPanel& panel,
                                           const StripRowsOfUnits& rows, bool together, float* acc) {
  const Index padded = head.padded_dim;
  Index column = 0;
  for (; column + 4 * kLanes <= padded; column += 4 * kLanes)
    weighted_rows_of_strip<4>(weights, panel, rows, padded, column, together, acc + column, padded);
  for (; column < padded; column += kLanes)
    weighted_rows_of_strip<1>(weights, panel, rows, padded, column, together, acc + column, padded);
}

// What the numbers that are not finite, which careful copies leave out, add to the rows that see them.
HSATTN_INLINE void add_not_finite(const PackedHead& head, const Units<float>& packed, const StripPanel& panel,
                                  const float* weights, float* acc) {
  const Index padded = head.padded_dim;
  for (int key = 0; key < kPanel; ++key) {
    const Index unit = panel.unit[key / kUnit];
    if (unit == kNoUnit || *head.not_finite[unit] == 0) continue;
    const float* row = packed[unit] + key % kUnit / 2 * padded;
    for (Index c = 0; c < padded; c += kLanes) {
      const F pair = load(row + c);
      const F x = key % 2 == 0 ? lower_numbers(pair) : and_bits(pair, 0xffff0000U);
      const M healthy = finite(x);
      if (bits(healthy) == 0xffffU) continue;
      for (int r = 0; r < kStripRows; ++r) {
        if ((panel.lanes(r) >> key & 1U) == 0) continue;
        const F w = set1(weights[r * kPanel / 2 + key / 2]);
        const F o = load(acc + r * padded + c);
        store(acc + r * padded + c,
              select(healthy, o, fma(key % 2 == 0 ? lower_numbers(w) : and_bits(w, 0xffff0000U), x, o)));
      }
    }
  }
}

constexpr float kShifter =
    12582912.0F;  // 1.5 * 2^23: added to a small number, leaves its nearest integer in the last bits

// 2^f for |f| <= 0.5 (degree 5, relative error 1.6e-7).
HSATTN_INLINE F power_of_fraction(F f) {
  F p = set1(1.3264726e-3F);
  p = fma(p, f, set1(9.671514e-3F));
  p = fma(p, f, set1(5.5507336e-2F));
  p = fma(p, f, set1(2.4022242e-1F));
  p = fma(p, f, set1(6.93147e-1F));
  return fma(p, f, set1(1.0F));
}

// Words of a strip's rows for its scores: rows that do not exist become zeros. Scores of a negative scale are turned
// round here, so that the largest is the largest.
HSATTN_INLINE void complete_pairs(Index rows, Index depth, bool negate, float* pairs) {
  const Index used = (rows + kQuad - 1) / kQuad * kQuad, all = (rows + 2 * kStrip - 1) / (2 * kStrip) * (2 * kStrip);
  __builtin_memset(pairs + used * depth, 0, static_cast<std::size_t>((all - used) * depth) * sizeof(float));
  if (!negate) return;
  for (Index i = 0; i < used * depth; i += kLanes) store(pairs + i, xor_bits(load(pairs + i), 0x80008000U));
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
