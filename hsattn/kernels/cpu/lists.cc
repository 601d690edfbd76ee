#include "hsattn/kernels/cpu/lists.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hsattn/base/math.h"

namespace hsattn::cpu {
namespace {

// The same byte in each row.
constexpr std::uint32_t in_each_row(std::uint32_t byte) { return byte * 0x01010101U; }

// Appends, or adds to the last entry if that is the same unit (blocks below 8 tokens share units).
void append(std::vector<Entry>& entries, Index unit, std::uint32_t lanes) {
  if (!entries.empty() && entries.back().unit == unit) {
    entries.back().lanes |= lanes;
  } else {
    entries.push_back({static_cast<std::int32_t>(unit), lanes});
  }
}

void append_block(const PlanShape& s, Index block, std::uint32_t rows, std::vector<Entry>& entries) {
  const Index begin = block * s.block, end = std::min(s.keys, begin + s.block);
  for (Index unit = begin / kUnit; unit * kUnit < end; ++unit) {
    append(entries, unit, rows & in_each_row(lane_bits(begin - unit * kUnit, end - unit * kUnit)));
  }
}

// Merges up to four ascending lists; `heads` are the parts of the positions' lists on one side of the near run.
void merge_lists(const PlanShape& s, std::span<const QuadPosition> positions,
                 std::span<std::span<const std::int32_t>> heads, std::vector<Entry>& entries) {
  constexpr std::int32_t kEnd = std::numeric_limits<std::int32_t>::max();
  const std::int32_t* at[kQuad];
  const std::int32_t* end[kQuad];
  std::int32_t next[kQuad];
  const auto count = static_cast<Index>(positions.size());
  for (Index i = 0; i < count; ++i) {
    at[i] = heads[i].data();
    end[i] = at[i] + heads[i].size();
    next[i] = at[i] < end[i] ? *at[i] : kEnd;
  }
  while (true) {
    std::int32_t block = kEnd;
    for (Index i = 0; i < count; ++i) block = std::min(block, next[i]);
    if (block == kEnd) return;
    std::uint32_t rows = 0;
    for (Index i = 0; i < count; ++i) {
      if (next[i] != block) continue;
      rows |= positions[i].rows;
      next[i] = ++at[i] < end[i] ? *at[i] : kEnd;
    }
    if (s.block == kUnit && (block + 1) * kUnit <= s.keys) {
      entries.push_back({block, rows});
    } else {
      append_block(s, block, rows, entries);
    }
  }
}

void append_near(const PlanShape& s, std::span<const QuadPosition> positions, std::vector<Entry>& entries) {
  Range any{s.keys, 0}, all{0, s.keys};
  std::uint32_t rows = 0;
  for (const QuadPosition& p : positions) {
    const Range near = s.near(p.position);
    all = {std::max(all.begin, near.begin), std::min(all.end, near.end)};
    if (near.size() == 0) continue;
    any = {std::min(any.begin, near.begin), std::max(any.end, near.end)};
    rows |= p.rows;
  }
  for (Index unit = any.begin / kUnit; unit * kUnit < any.end; ++unit) {
    std::uint32_t lanes = rows;
    const Index begin = unit * kUnit;
    if (begin < all.begin || begin + kUnit > all.end) {
      lanes = 0;
      for (const QuadPosition& p : positions) {
        const Range near = s.near(p.position);
        lanes |= p.rows & in_each_row(lane_bits(near.begin - begin, near.end - begin));
      }
    }
    if (lanes != 0) append(entries, unit, lanes);
  }
}

// Puts units in ascending order, each once. They mostly are: only where a position that attends everything shares a
// quad with one that selects, the near run of the first overlaps the list of the second.
void sort_units(std::vector<Entry>& entries) {
  const auto by_unit = [](const Entry& a, const Entry& b) { return a.unit < b.unit; };
  if (std::is_sorted(entries.begin(), entries.end(), by_unit)) return;
  std::sort(entries.begin(), entries.end(), by_unit);
  std::size_t count = 0;
  for (const Entry& entry : entries) {
    if (count > 0 && entries[count - 1].unit == entry.unit) {
      entries[count - 1].lanes |= entry.lanes;
    } else {
      entries[count++] = entry;
    }
  }
  entries.resize(count);
}

// Two ascending runs become one; a node that both hold stays once, with the rows of both.
void merge_far(std::span<const FarEntry> a, std::span<const FarEntry> b, std::vector<FarEntry>& out) {
  out.clear();
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (a[i].order < b[j].order) {
      out.push_back(a[i++]);
    } else if (b[j].order < a[i].order) {
      out.push_back(b[j++]);
    } else {
      out.push_back(a[i++]);
      out.back().rows |= b[j++].rows;
    }
  }
  out.insert(out.end(), a.begin() + static_cast<std::ptrdiff_t>(i), a.end());
  out.insert(out.end(), b.begin() + static_cast<std::ptrdiff_t>(j), b.end());
}

// log(tokens); complete nodes hold a power of two.
float log_tokens(const PlanShape& s, const FarNode& node) {
  if (node.tokens == s.block << node.level) return static_cast<float>(node.level + log2_exact(s.block)) * kLn2;
  return std::log(static_cast<float>(node.tokens));
}

}  // namespace

void build_entries(const PlanShape& shape, std::span<const QuadPosition> positions, std::vector<Entry>& entries) {
  entries.clear();
  std::span<const std::int32_t> before[kQuad], after[kQuad];
  for (std::size_t i = 0; i < positions.size(); ++i) {
    const auto list = positions[i].list;
    const Index left_end = shape.left(positions[i].position).end;
    const auto cut =
        shape.causal ? list.size()
                     : static_cast<std::size_t>(std::lower_bound(list.begin(), list.end(), left_end) - list.begin());
    before[i] = list.first(cut);
    after[i] = list.subspan(cut);
  }
  merge_lists(shape, positions, before, entries);
  append_near(shape, positions, entries);
  if (!shape.causal) merge_lists(shape, positions, after, entries);
  sort_units(entries);
}

void build_far_entries(const PlanShape& shape, std::span<const QuadPosition> positions, const PackedPyramid& pyramid,
                       FarScratch& scratch, std::vector<FarEntry>& entries) {
  entries.clear();
  for (const QuadPosition& p : positions) {
    far_field_of(shape, p.position, p.list, scratch.nodes);
    scratch.own.clear();
    for (const FarNode& node : scratch.nodes) {
      const auto row = static_cast<std::int32_t>(pyramid.first[node.level] + node.index);
      scratch.own.push_back({row, log_tokens(shape, node), p.rows, ((node.index << node.level) << 6) + node.level});
    }
    merge_far(entries, scratch.own, scratch.merged);
    entries.swap(scratch.merged);
  }
}

}  // namespace hsattn::cpu
