// Blocks smaller than a unit: their keys are scored as dense units, gathered from where they lie, in place of units of
// which a row sees a few lanes. float32 only, forward only.
#pragma once

#include "hsattn/kernels/cpu/micro-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

// Up to 64 keys of blocks of kPart tokens.
template <int kPart>
struct GatheredPanel {
  static constexpr int kParts = static_cast<int>(kPanel) / kPart;
  const float* keys[kParts];    // of the part's first token, in its unit
  const float* values[kParts];  // rows of its tokens
  std::uint64_t seen[kQuad];    // bit j: the row sees key j
  int keys_count = 0, units = 0;
  bool careful = false;  // holds a key or value that is not finite

  GatheredPanel(const PackedHead& head, Index all_keys, const HeldNode* blocks, Index left) {
    const int count = static_cast<int>(min_of<Index>(left, kParts));
    keys_count = count * kPart;
    units = (keys_count + static_cast<int>(kUnit) - 1) / static_cast<int>(kUnit);
    for (std::uint64_t& row : seen) row = 0;
    for (int i = 0; i < count; ++i) take(head, all_keys, blocks[i], i);
    for (int i = count; i < kParts; ++i) {  // scores are of some units at once
      keys[i] = keys[0];
      values[i] = values[0];
    }
  }

 private:
  HSATTN_ALWAYS void take(const PackedHead& head, Index all_keys, const HeldNode& block, int i) {
    const Index token = Index{block.index} * kPart, unit = token / kUnit, lane = token % kUnit;
    keys[i] = head.keys_t[unit] + lane * kStep;
    values[i] = head.values[unit] + lane * head.padded_dim;
    if (head.any_not_finite) careful |= *head.not_finite[unit] != 0;
    const std::uint32_t exist = lane_bits(0, all_keys - token) & ((1U << kPart) - 1U);
    for (int r = 0; r < static_cast<int>(kQuad); ++r) {
      seen[r] |= static_cast<std::uint64_t>(block.rows >> (8 * r) & exist) << (i * kPart);
    }
  }
};

// Keys of units that are made of parts.
template <int kPart>
struct KeysOfParts {
  static constexpr int kAtOnce = kLanes == 16 ? 4 : 2;  // more pointers than that do not fit into registers
  const float* const* part;

  HSATTN_ALWAYS F operator()(int u, Index offset) const {
    return load_parts<kPart>(part + u * (static_cast<int>(kUnit) / kPart), offset);
  }
  HSATTN_ALWAYS KeysOfParts from(int u) const { return {part + u * (static_cast<int>(kUnit) / kPart)}; }
};

template <int kPart>
struct RowsOfParts {
  const float* const* part;
  Index padded_dim;
  HSATTN_ALWAYS const float* operator()(int u, int j) const {
    const int key = u * static_cast<int>(kUnit) + j;
    return part[key / kPart] + key % kPart * padded_dim;
  }
};

// One quad meets the blocks that its rows keep. Row sums are one chain over the keys, so their bits do not depend on
// how keys fall into panels.
template <int kPart>
static void forward_gathered(const PackedHead& head, Index all_keys, std::span<const HeldNode> blocks, Index row,
                             Scratch& s) {
  const auto count = static_cast<Index>(blocks.size());
  float* const o = s.o + row * head.padded_dim;
  const QuadRows<Floats> q{s.q + row * head.padded_dim, head.padded_dim, 1};
  for (Index at = 0; at < count; at += GatheredPanel<kPart>::kParts) {
    alignas(64) float scores[kQuad * kPanel];
    float rescale[kQuad];
    const GatheredPanel<kPart> panel(head, all_keys, blocks.data() + at, count - at);
    scores_of_panel(q, head.depth, KeysOfParts<kPart>{panel.keys}, panel.units, scores);
    const int vectors = vectors_of(panel.units);
    mask_scores(scores, panel.seen, vectors);
    softmax_step<Floats, true>(scores, vectors, panel.keys_count, row, s, rescale);
    const RowsOfParts<kPart> rows{panel.values, head.padded_dim};
    if (panel.careful) {
      weighted_rows_seen<Floats>(scores, rescale, panel.seen, rows, head.padded_dim, o);
    } else {
      weighted_rows<Floats>(scores, rescale, rows, FirstUnits{panel.units}, head.padded_dim, o);
    }
  }
}

// The quads of a tile, whose blocks are smaller than a unit.
static void forward_gathered_quads(const HeadJob& job, Index quads, Scratch& s) {
  const auto forward = job.shape.block == 4   ? forward_gathered<4>
                       : job.shape.block == 2 ? forward_gathered<2>
                                              : forward_gathered<1>;
  for (Index quad = 0; quad < quads; ++quad) {
    forward(*job.packed, job.shape.keys, s.gathered[quad], quad * kQuad, s);
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
