// What the tiles of all instruction sets share: memory, loading of queries, entries of quads. No vector flags here.
#include <algorithm>
#include <cstring>

#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/quantize.h"

namespace hsattn::cpu {
namespace {

// Items that a cell of (up to) 4 positions may have to score at once: nodes of a level, children of refined nodes in
// whole units of 8, or tokens of candidates and of the near run.
Index search_capacity(const HeadJob& job) {
  const PlanShape& shape = job.shape;
  const SearchBudgets& b = job.search;
  const Index nodes = shape.nodes(), positions = std::min(kQuad, shape.queries);
  const Index opened = b.start_level >= 0 ? (nodes >> b.start_level) + 2 : std::min(nodes, b.top_nodes + 2 * kQuad);
  const Index children = std::min(2 * nodes, kUnit * positions * std::min(nodes, b.beam)) + 4 * kQuad * kUnit;
  const Index parts = shape.parts * (std::max(opened, children) + 2 * kPanel);
  Index tokens = 0;
  if (b.rescore) {
    tokens = positions * std::min(nodes, b.candidates) * std::max(shape.node, kUnit);
    const Index near = std::min(shape.keys, 2 * (shape.window + 2 * shape.node) + kQuad) + 2 * kUnit;
    if (job.group > 1 || b.mass > 0) tokens += near;
    if (b.mass > 0) tokens += 2 * (std::min(shape.keys, b.sinks * shape.node) + 2 * kUnit);
  }
  return round_up(std::max({opened + 2 * kUnit, children, parts, tokens}), kPanel) + 3 * kPanel;
}

void find_quad_positions(const HeadJob& job, Index first, Index count, const std::int32_t* lists, Index quad,
                         QuadPosition* out, Index* found) {
  *found = 0;
  for (Index r = 0; r < kQuad; ++r) {
    const Index p = (quad * kQuad + r) / job.group;
    if (p >= count) return;
    const Index position = job.shape.position(first + p);
    if (*found == 0 || out[*found - 1].position != position) {
      const Index slots = job.shape.slots();
      Index used = slots;
      while (used > 0 && lists[p * slots + used - 1] < 0) --used;
      out[(*found)++] = {position, 0, {lists + p * slots, static_cast<std::size_t>(used)}};
    }
    out[*found - 1].rows |= 0xffU << (8 * r);
  }
}

}  // namespace

Scratch::Scratch(const HeadJob& job, bool backward) {
  const Index positions = std::min(kTile, job.shape.queries);
  rows = round_up(positions * job.group, job.packed->tiles ? 2 * kStrip : kQuad);
  const bool searches = job.shape.slots() > 0 && job.lists == nullptr && job.rule == nullptr;
  if (searches) capacity = search_capacity(job);
  memory_ = Slab("attention: working memory of a task", [&](Slab::Taker& take) {
    take_rows(take, job, backward);
    if (job.shape.slots() > 0) take(lists, positions * job.shape.slots());
    if (searches) take_search(take, job);
  });
  entries.resize(static_cast<std::size_t>(rows / kQuad));
  gathered.resize(entries.size());
  if (job.shape.far_field) {
    far_entries.resize(entries.size());
    far_counts.resize(entries.size());
  }
  if (searches) hints.assign(PackedPyramid::kMaxLevels + 3, Hint{});
}

void Scratch::take_rows(Slab::Taker& take, const HeadJob& job, bool backward) {
  const Index padded = job.packed->padded_dim;
  for (float** array : {&q, &o}) take(*array, rows * padded);
  for (float** array : {&max, &far_sum}) take(*array, rows);
  take(sums, rows * kUnit);
  if (backward) {
    for (float** array : {&dout, &dq}) take(*array, rows * padded);
    for (float** array : {&lse, &delta}) take(*array, rows);
  }
  if (!job.packed->pairs) return;
  const Index words = std::max(job.packed->depth, padded / 2);
  take(q_pairs, rows * words);
  take(rounded_sums, rows * kUnit);
  if (job.packed->tiles) take(tile_sums, rows * kStrip);
  if (!backward) return;
  take(dout_pairs, rows * words);
  for (float** array : {&q_row_pairs, &dout_row_pairs}) take(*array, rows * padded / 2);
}

void Scratch::take_search(Slab::Taker& take, const HeadJob& job) {
  const Index cell = std::min(kQuad, job.shape.queries);  // positions
  take(scores, round_up(cell * job.group, kQuad) * capacity);
  take(mass, (job.shape.tail > 0 ? kQuad : cell) * capacity);
  take(work, capacity);
  take(spare, capacity + kDimAlign);
  take(unit_mass, capacity / kUnit + kUnit);
  take(cell_entries, capacity / kUnit + kUnit);
  take(unit_lanes, capacity / kUnit + kUnit);
  for (std::int32_t** array : {&ids, &next_ids}) take(*array, capacity);
  for (std::uint8_t** array : {&may, &next_may, &chosen}) take(*array, capacity);
  take(q_int8, rows * job.packed->padded_dim);
  take(q_scales, rows);
  take(q_sums, rows);
  if (job.shape.tail == 0) return;
  for (float** array : {&tail_max, &tail_sum}) take(*array, rows);
  take(tail_o, rows * job.packed->padded_dim);
  take(kept_lanes, (kQuad + 1) * (capacity / kUnit) + kDimAlign);
}

void load_tile_rows(const StoredRows& x, Index group, Index first, Index count, float factor, Index padded_dim,
                    float* rows) {
  std::memset(rows, 0, static_cast<std::size_t>(round_up(count * group, kQuad) * padded_dim) * sizeof(float));
  for (Index p = 0; p < count; ++p) {
    for (Index g = 0; g < group; ++g) {
      read_row(x.dtype, x.row(first + p, g), x.dim, factor, rows + (p * group + g) * padded_dim);
    }
  }
}

void load_tile_pairs(const StoredRows& x, Index group, Index first, Index count, Index padded_dim, float* pairs,
                     float* row_pairs) {
  const Index rows = round_up(count * group, kQuad);
  auto* bytes = reinterpret_cast<std::byte*>(pairs);  // a pair of dimensions is what lies side by side anyway
  const auto row_bytes = static_cast<std::size_t>(padded_dim * size_of(DType::kBFloat16));
  const auto bytes_of_row = [&](Index row) { return bytes + static_cast<std::size_t>(row) * row_bytes; };
  std::memset(bytes, 0, static_cast<std::size_t>(rows) * row_bytes);
  for (Index row = 0; row < count * group; ++row) {
    std::memcpy(bytes_of_row(row), x.row(first + row / group, row % group),
                static_cast<std::size_t>(x.dim * size_of(DType::kBFloat16)));
  }
  if (row_pairs == nullptr) return;
  for (Index row = 0; row < rows; row += 2, row_pairs += padded_dim) {
    pair_up_rows(bytes_of_row(row), bytes_of_row(row + 1), padded_dim, row_pairs);
  }
}

void round_queries(const float* q, Index rows, Index padded_dim, Scratch& scratch) {
  for (Index row = 0; row < round_up(rows, kQuad); ++row) {
    std::int8_t* bytes = scratch.q_int8 + row * padded_dim;
    scratch.q_scales[row] = quantize(q + row * padded_dim, padded_dim, kQueryLevels, bytes);
    std::int32_t sum = 0;
    for (Index d = 0; d < padded_dim; ++d) sum += bytes[d];
    scratch.q_sums[row] = -128 * sum;
  }
}

void build_tile_entries(const HeadJob& job, Index first, Index count, const std::int32_t* lists, bool gather,
                        Scratch& scratch) {
  const Index quads = ceil_div(count * job.group, kQuad);
  for (Index quad = 0; quad < quads; ++quad) {
    QuadPosition positions[kQuad];
    Index found = 0;
    find_quad_positions(job, first, count, lists, quad, positions, &found);
    const std::span<const QuadPosition> members(positions, static_cast<std::size_t>(found));
    std::vector<HeldNode>& kept = gather ? scratch.gathered[quad] : scratch.held;
    merge_lists(members, kept);
    build_entries(job.shape, members, gather ? std::span<const HeldNode>() : kept, scratch.entries[quad]);
    if (job.shape.far_field) {
      if (gather) scratch.held = kept;  // which the far field uses up
      scratch.far_counts[quad] =
          build_far_entries(job.shape, members, job.packed->pyramid, scratch.held, scratch.far_entries[quad]);
    }
  }
}

const Kernels& kernels_for(Isa isa, DType type) {
  const bool pairs = packs_pairs(isa, type);
#if defined(__x86_64__)
  if (isa == Isa::kAmx && pairs) return amx::kKernels;
  if (isa == Isa::kAmx || isa == Isa::kAvx512 || isa == Isa::kAvx512BFloat16) return avx512::kKernels;
  if (isa == Isa::kAvx2) return avx2::kKernels;
#endif
  if (isa == Isa::kPortableAmx && pairs) return portable_amx::kKernels;
  return portable::kKernels;
}

bool packs_pairs(Isa isa, DType type) { return type == DType::kBFloat16 && has_pair_products(isa); }

}  // namespace hsattn::cpu
