// What the tiles of all instruction sets share: memory, loading of queries, entries of quads. No vector flags here.
#include <algorithm>
#include <cstring>

#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/quantize.h"

namespace hsattn::cpu {
namespace {

// Items that a cell of (up to) 4 positions may have to score at once: nodes of a level, children of refined nodes in
// whole units of 8, or tokens of candidate blocks and of the near run.
Index search_capacity(const HeadJob& job) {
  const PlanShape& shape = job.shape;
  const SearchBudgets& b = job.search;
  const Index blocks = shape.blocks(), positions = std::min(kQuad, shape.queries);
  const Index opened = b.start_level >= 0 ? (blocks >> b.start_level) + 2 : std::min(blocks, b.top_nodes + 2 * kQuad);
  const Index children = std::min(2 * blocks, kUnit * positions * std::min(blocks, b.beam)) + 4 * kQuad * kUnit;
  Index tokens = 0;
  if (b.rescore) {
    tokens = positions * std::min(blocks, b.candidates) * std::max(shape.block, kUnit);
    const Index near = std::min(shape.keys, 2 * (shape.window + 2 * shape.block) + kQuad) + 2 * kUnit;
    if (job.group > 1 || b.mass > 0) tokens += near;
    if (b.mass > 0) tokens += 2 * (std::min(shape.keys, b.sinks * shape.block) + 2 * kUnit);
  }
  return round_up(std::max({opened + 2 * kUnit, children, tokens}), kPanel) + 3 * kPanel;
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
  const char* what = "attention: working memory of a task";
  const Index padded = job.packed->padded_dim;
  const Index positions = std::min(kTile, job.shape.queries);
  rows = round_up(positions * job.group, 2 * kStrip);
  q = allocate_buffer<float>(rows * padded, what);
  o = allocate_buffer<float>(rows * padded, what);
  max = allocate_buffer<float>(rows, what);
  far_sum = allocate_buffer<float>(rows, what);
  sums = allocate_buffer<float>(rows * kUnit, what);
  if (backward) {
    dout = allocate_buffer<float>(rows * padded, what);
    dq = allocate_buffer<float>(rows * padded, what);
    lse = allocate_buffer<float>(rows, what);
    delta = allocate_buffer<float>(rows, what);
  }
  if (job.packed->pairs) {
    const Index words = std::max(job.packed->depth, padded / 2);
    q_pairs = allocate_buffer<float>(rows * words, what);
    rounded_sums = allocate_buffer<float>(rows * kUnit, what);
    if (job.packed->tiles) tile_sums = allocate_buffer<float>(rows * kStrip, what);
    if (backward) {
      dout_pairs = allocate_buffer<float>(rows * words, what);
      q_row_pairs = allocate_buffer<float>(rows * padded / 2, what);
      dout_row_pairs = allocate_buffer<float>(rows * padded / 2, what);
    }
  }
  entries.resize(static_cast<std::size_t>(rows / kQuad));
  far_entries.resize(entries.size());
  far_counts.resize(entries.size());
  if (job.shape.slots() == 0) return;
  lists = allocate_buffer<std::int32_t>(positions * job.shape.slots(), what);
  if (job.lists != nullptr || job.rule != nullptr) return;
  capacity = search_capacity(job);
  const Index cell = std::min(kQuad, job.shape.queries);  // positions
  scores = allocate_buffer<float>(round_up(cell * job.group, kQuad) * capacity, what);
  mass = allocate_buffer<float>(cell * capacity, what);
  work = allocate_buffer<float>(capacity, what);
  spare = allocate_buffer<float>(capacity + kDimAlign, what);
  unit_mass = allocate_buffer<float>(capacity / kUnit + kUnit, what);
  cell_entries = allocate_buffer<Entry>(capacity / kUnit + kUnit, what);
  ids = allocate_buffer<std::int32_t>(capacity, what);
  next_ids = allocate_buffer<std::int32_t>(capacity, what);
  may = allocate_buffer<std::uint8_t>(capacity, what);
  next_may = allocate_buffer<std::uint8_t>(capacity, what);
  chosen = allocate_buffer<std::uint8_t>(capacity, what);
  hints.assign(PackedPyramid::kMaxLevels + 3, Hint{});
  q_int8 = allocate_buffer<std::int8_t>(rows * padded, what);
  q_scales = allocate_buffer<float>(rows, what);
  q_sums = allocate_buffer<std::int32_t>(rows, what);
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
    std::int8_t* bytes = scratch.q_int8.get() + row * padded_dim;
    scratch.q_scales[row] = quantize(q + row * padded_dim, padded_dim, kQueryLevels, bytes);
    std::int32_t sum = 0;
    for (Index d = 0; d < padded_dim; ++d) sum += bytes[d];
    scratch.q_sums[row] = -128 * sum;
  }
}

void build_tile_entries(const HeadJob& job, Index first, Index count, const std::int32_t* lists, Scratch& scratch) {
  const Index quads = ceil_div(count * job.group, kQuad);
  for (Index quad = 0; quad < quads; ++quad) {
    QuadPosition positions[kQuad];
    Index found = 0;
    find_quad_positions(job, first, count, lists, quad, positions, &found);
    const std::span<const QuadPosition> members(positions, static_cast<std::size_t>(found));
    merge_lists(members, scratch.held);
    build_entries(job.shape, members, scratch.held, scratch.entries[quad]);
    if (job.shape.far_field) {
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
