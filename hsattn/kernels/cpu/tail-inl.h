// The tail: what rescoring weighs and rejects stands for itself, each candidate as the mean of its values with a share
// of its rejected mass. It is where the running softmax of a tile's rows begins (docs/design.md, "The tail").
#pragma once

#include "hsattn/kernels/cpu/cell-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// The nodes whose blocks were rescored.
struct Candidates {
  const std::int32_t* ids;
  const std::uint8_t* may;
  Index count;
};

static void reset_tail(const HeadJob& job, Index count, Scratch& s) {
  const Index rows = (count * job.group + kQuad - 1) / kQuad * kQuad, padded = job.packed->padded_dim;
  for (Index r = 0; r < s.rows; ++r) s.tail_max[r] = s.tail_sum[r] = 0;
  __builtin_memset(s.tail_o, 0, static_cast<std::size_t>(rows * padded) * sizeof(float));
}

// Puts the running softmax of the rows of a tile, which have seen nothing yet, behind their tails. Only after a search,
// which each tile of a job with a tail has: what stands there else is of another job.
static void begin_with_tail(Index rows, Index padded, Scratch& s) {
  for (Index r = 0; r < rows; ++r) {
    if (s.tail_sum[r] == 0) continue;
    s.max[r] = s.tail_max[r];
    s.far_sum[r] = s.tail_sum[r];
    __builtin_memcpy(s.o + r * padded, s.tail_o + r * padded, static_cast<std::size_t>(padded) * sizeof(float));
  }
}

// Bit i of 4 becomes bit 2 i.
constexpr std::uint8_t kSpread[16] = {0, 1, 4, 5, 16, 17, 20, 21, 64, 65, 68, 69, 80, 81, 84, 85};

// Lanes of a unit from a bit for each of its blocks.
HSATTN_INLINE std::uint32_t lanes_of_blocks(std::uint32_t blocks, Index block) {
  if (block == 1) return blocks;
  if (block == 2) return kSpread[blocks & 15U] * 3U;
  if (block == 4) return (blocks & 1U) * 0x0fU | (blocks >> 1 & 1U) * 0xf0U;
  return (blocks & 1U) * 0xffU;
}

// Lanes of each unit of the candidates that position p keeps or may not choose, a byte for each. `bits_of` is for a bit
// of each block.
static void find_kept_lanes(const Cell& c, unsigned p, const Candidates& nodes, std::uint8_t* bits_of,
                            std::uint8_t* lanes) {
  const PlanShape& shape = c.job.shape;
  const Index per_node = shape.blocks_of_node(), units = units_of_node(c);
  const Index blocks = min_of(per_node, max_of<Index>(1, kUnit / shape.block));  // of a unit
  for (Index i = 0; i < nodes.count * per_node; i += kLanes) {
    const unsigned kept = bits(lanes_with_bit(c.s.chosen + i, p));
    __builtin_memcpy(bits_of + i / 8, &kept, kLanes / 8);
  }
  const std::uint32_t every = (1U << blocks) - 1U;
  for (Index i = 0; i < nodes.count; ++i) {
    const Index first = shape.node < kUnit ? nodes.ids[i] * shape.node % kUnit : 0;  // lane
    const std::uint32_t of_others = (nodes.may[i] >> p & 1U) - 1U;
    for (Index u = 0; u < units; ++u) {
      const Index at = i * per_node + u * kUnit / shape.block;  // a multiple of `blocks`, which divides 8
      const std::uint32_t kept = static_cast<std::uint32_t>(bits_of[at / 8] >> at % 8) & every;
      lanes[i * units + u] = static_cast<std::uint8_t>(lanes_of_blocks(kept, shape.block) << first | of_others);
    }
  }
}

// Rejected masses of parts that are smaller than a unit, of one row whose kept weights are 0.
static void add_up_parts(const Cell& c, const Candidates& nodes, const float* weights, float* mass) {
  const PlanShape& shape = c.job.shape;
  if (shape.node >= kUnit) {
    return add_block_masses(shape.part(), weights, nodes.count * shape.parts, 1.0F, true, mass);
  }
  for (Index i = 0; i < nodes.count; ++i) {  // which fills some lanes of its unit
    const Index lane = nodes.ids[i] * shape.node % kUnit;
    add_block_masses(shape.part(), weights + i * kUnit + lane, shape.parts, 1.0F, true, mass + i * shape.parts);
  }
}

// The rejected mass of each candidate, or of each part of one, in one row. Its weights, of `units` units, a multiple of
// 8, are lost if parts are smaller than a unit.
static void add_up_rejected(const Cell& c, const Candidates& nodes, float* weights, const std::uint8_t* kept,
                            Index units, float* mass) {
  const PlanShape& shape = c.job.shape;
  const Index per_part = max_of<Index>(1, shape.part() / kUnit);  // units; a candidate below a unit has one, too
  const bool small = shape.parts > 1 && shape.part() < kUnit;
  float* unit_mass = per_part == 1 ? mass : c.s.unit_mass;
  for (Index u = 0; u < units; u += kPanelUnits) {
    F w[kVectors];
    each<kVectors>([&](int v) HSATTN_ALWAYS {
      w[v] = select(lanes_of(kept + u + v * kUnitsPerVector), zero(), load(weights + u * kUnit + v * kLanes));
      if (small) store(weights + u * kUnit + v * kLanes, w[v]);
    });
    if (!small) half_store(unit_mass + u, sums_of_units(w));
  }
  if (small) return add_up_parts(c, nodes, weights, mass);
  if (per_part > 1) add_sums(per_part, unit_mass, units / per_part, 1.0F, true, mass);
}

// Up to 64 candidates, or parts of them, as rows of values. One that holds a value that is not finite weighs nothing.
struct TailPanel {
  const float* values[kPanel];
  int count, units;

  HSATTN_ALWAYS TailPanel(const Cell& c, const Candidates& nodes, Index at, float* weights) {
    const Index parts = c.job.shape.parts, all = nodes.count * parts;
    const int shift =
        __builtin_ctzll(static_cast<unsigned long long>(parts));  // to divide takes most of the loop's time
    const Units<float>& rows = tail_values(c.pyramid(), parts);
    const Index last = (c.job.shape.keys + c.job.shape.part() - 1) / c.job.shape.part() - 1;  // part of a ragged node
    count = static_cast<int>(min_of<Index>(all - at, kPanel));
    units = (count + static_cast<int>(kUnit) - 1) / static_cast<int>(kUnit);
    for (int j = 0; j < count; ++j) {
      const Index row = Index{nodes.ids[(at + j) >> shift]} * parts + ((at + j) & (parts - 1));
      values[j] = rows[min_of(row, last)];  // those behind the last weigh nothing
    }
    for (int j = count; j < units * static_cast<int>(kUnit); ++j) {
      values[j] = values[0];
      for (int r = 0; r < static_cast<int>(kQuad); ++r) weights[r * kPanel + j] = 0;
    }
    if (c.job.packed->any_not_finite) skip_not_finite(c.job.packed->padded_dim, weights);
  }

 private:
  void skip_not_finite(Index padded, float* weights) {
    alignas(64) static constexpr float kZeros[kMaxDim] = {};
    for (int j = 0; j < units * static_cast<int>(kUnit); ++j) {
      bool all = true;
      for (Index d = 0; d < padded; d += kLanes) all &= count_bits(finite(load(values[j] + d))) == kLanes;
      if (all) continue;
      values[j] = kZeros;
      for (int r = 0; r < static_cast<int>(kQuad); ++r) weights[r * kPanel + j] = 0;
    }
  }
  static HSATTN_ALWAYS int count_bits(M m) { return __builtin_popcount(bits(m)); }
};

// Adds the tails of 4 rows, mass [4, capacity], to what they begin with.
static void add_tail_of_quad(const Cell& c, const Candidates& nodes, Index row) {
  const Index padded = c.job.packed->padded_dim;
  const float scale[kQuad] = {1, 1, 1, 1}, share = static_cast<float>(c.job.shape.tail);
  for (Index at = 0; at < nodes.count * c.job.shape.parts; at += kPanel) {
    alignas(64) float weights[kQuad * kPanel];
    for (Index r = 0; r < kQuad; ++r) {
      for (Index j = 0; j < kPanel; j += kLanes) {
        store(weights + r * kPanel + j, mul(set1(share), load(c.s.mass + r * c.s.capacity + at + j)));
      }
    }
    const TailPanel panel(c, nodes, at, weights);
    float sum[kQuad];
    for (Index r = 0; r < kQuad; ++r) sum[r] = c.s.tail_sum[row + r];
    for (int j = 0; j < panel.count; ++j)
      for (Index r = 0; r < kQuad; ++r) sum[r] += weights[r * kPanel + j];
    for (Index r = 0; r < kQuad; ++r) c.s.tail_sum[row + r] = sum[r];
    weighted_rows<Floats>(weights, scale, NodeRows{panel.values}, FirstUnits{panel.units}, padded,
                          c.s.tail_o + row * padded);
  }
}

// After the choice of a cell's active positions: the weights of their rows lie where their scores were.
static void add_tail(Cell& c, const Candidates& nodes) {
  const Index units = nodes.count * units_of_node(c);
  const Index padded_units = (units + kPanelUnits - 1) / kPanelUnits * kPanelUnits;
  const Index stride = c.s.capacity / kUnit;
  std::uint8_t *kept = c.s.kept_lanes, *block_bits = kept + kQuad * stride;
  for (int p = 0; p < c.positions; ++p) {
    if ((c.active >> p & 1U) == 0) continue;
    find_kept_lanes(c, static_cast<unsigned>(p), nodes, block_bits, kept + p * stride);
    for (Index u = units; u < padded_units; ++u) kept[p * stride + u] = 0xff;
  }
  const Index row0 = (c.q - c.s.q) / c.job.packed->padded_dim;
  for (Index quad = 0; quad < c.rows(); quad += kQuad) {
    for (Index r = 0; r < kQuad; ++r) {
      const Index row = quad + r, p = row / c.job.group;
      float* mass = c.s.mass + r * c.s.capacity;
      if (p >= c.positions || (c.active >> p & 1U) == 0) {
        __builtin_memset(mass, 0, static_cast<std::size_t>(nodes.count * c.job.shape.parts) * sizeof(float));
      } else {
        add_up_rejected(c, nodes, c.s.scores + row * c.s.capacity, kept + p * stride, padded_units, mass);
      }
    }
    add_tail_of_quad(c, nodes, row0 + quad);
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
