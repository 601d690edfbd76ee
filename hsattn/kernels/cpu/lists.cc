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

void append_block(const PlanShape& s, const HeldNode& block, std::vector<Entry>& entries) {
  const Index begin = block.index * s.block, end = std::min(s.keys, begin + s.block);
  if (s.block == kUnit && begin + kUnit <= s.keys) {
    entries.push_back({block.index, block.rows});
    return;
  }
  for (Index unit = begin / kUnit; unit * kUnit < end; ++unit) {
    append(entries, unit, block.rows & in_each_row(lane_bits(begin - unit * kUnit, end - unit * kUnit)));
  }
}

// Appends units [begin, end); the first may be that of the last entry.
void append_whole(std::vector<Entry>& entries, Index begin, Index end, std::uint32_t lanes) {
  if (begin >= end) return;
  append(entries, begin++, lanes);
  const std::size_t used = entries.size();
  entries.resize(used + static_cast<std::size_t>(end - begin));
  for (Entry* out = entries.data() + used; begin < end; ++begin) *out++ = {static_cast<std::int32_t>(begin), lanes};
}

// The near run of each position of a quad.
struct NearRuns {
  Range of[kQuad];
  std::uint32_t rows[kQuad] = {};
  int count = 0;

  NearRuns(const PlanShape& s, std::span<const QuadPosition> positions) {
    for (const QuadPosition& p : positions) {
      of[count] = s.near(p.position);
      rows[count++] = p.rows;
    }
  }
};

// Units [unit, end), with the lanes that each row sees.
void append_some(const NearRuns& near, Index unit, Index end, std::vector<Entry>& entries) {
  for (; unit < end; ++unit) {
    std::uint32_t lanes = 0;
    for (int i = 0; i < near.count; ++i) {
      lanes |= near.rows[i] & in_each_row(lane_bits(near.of[i].begin - unit * kUnit, near.of[i].end - unit * kUnit));
    }
    if (lanes != 0) append(entries, unit, lanes);
  }
}

void append_near(const PlanShape& s, const NearRuns& near, std::vector<Entry>& entries) {
  Range any{s.keys, 0}, all{0, s.keys};
  std::uint32_t rows = 0;
  for (int i = 0; i < near.count; ++i) {
    const Range& run = near.of[i];
    all = {std::max(all.begin, run.begin), std::min(all.end, run.end)};
    if (run.size() == 0) continue;
    any = {std::min(any.begin, run.begin), std::max(any.end, run.end)};
    rows |= near.rows[i];
  }
  // Units that all rows see wholly, most of them, and those before and behind.
  const Index begin = any.begin / kUnit, end = ceil_div(any.end, kUnit);
  const Index whole = std::clamp(ceil_div(all.begin, kUnit), begin, std::max(begin, end));
  const Index behind = std::clamp(all.end / kUnit, whole, std::max(whole, end));
  append_some(near, begin, whole, entries);
  append_whole(entries, whole, behind, rows);
  append_some(near, behind, end, entries);
}

// Puts units in ascending order, each once. They mostly are: only where the near run of one position overlaps the list
// of another in its quad are they not (one that attends everything; or, not causal, one whose near run ends later).
void sort_units(std::vector<Entry>& entries) {
  const auto not_before = [](const Entry& a, const Entry& b) { return a.unit >= b.unit; };
  if (std::adjacent_find(entries.begin(), entries.end(), not_before) == entries.end()) return;
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.unit < b.unit; });
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

// Where the ranges of a row end, in blocks: it may not see what lies between the two.
struct Bounds {
  Index first = 0, last = 0;  // last: kNone if nothing lies behind
  std::uint32_t rows = 0;
};
constexpr Index kNone = Index{1} << 40;
constexpr HeldNode kNobody{-2, 0};

// Bounds of the positions that select; their first and last blocks count as held.
int add_bounds(const PlanShape& s, std::span<const QuadPosition> positions, Bounds* bounds,
               std::vector<HeldNode>& held) {
  int count = 0;
  for (const QuadPosition& p : positions) {
    const Range left = s.left(p.position), right = s.right(p.position);
    if (left.size() + right.size() == 0) continue;
    if (right.begin == 0 && right.size() > 0) {  // a position before all keys: everything lies behind it
      bounds[count++] = {kNone, kNone, p.rows};
      continue;
    }
    const Index last = right.size() > 0 ? right.begin - 1 : kNone;
    bounds[count++] = {left.end, last, p.rows};
    held.push_back({static_cast<std::int32_t>(left.end), p.rows});
    if (last != kNone) held.push_back({static_cast<std::int32_t>(last), p.rows});
  }
  std::sort(held.begin(), held.end(), [](const HeldNode& a, const HeldNode& b) { return a.index < b.index; });
  return count;
}

// Ascending nodes that are equal become one, in place.
void merge_equal(std::vector<HeldNode>& held) {
  if (held.empty()) return;
  std::size_t last = 0;
  for (std::size_t i = 1; i < held.size(); ++i) {
    if (held[last].index == held[i].index) {
      held[last].rows |= held[i].rows;
    } else {
      held[++last] = held[i];
    }
  }
  held.resize(last + 1);
}

// Writes nodes of the far field one after another; those that no row sees are written over.
class FarList {
 public:
  FarList(const PlanShape& shape, const PackedPyramid& pyramid, const Bounds* bounds, int count, FarEntry* out)
      : shape_(shape), pyramid_(pyramid), bounds_(bounds), count_(count), begin_(out), out_(out) {
    common_ = kNone;
    for (int i = 0; i < count; ++i) common_ = std::min(common_, bounds[i].first);
  }

  Index nodes(Index level) const { return pyramid_.first[level + 1] - pyramid_.first[level]; }
  Index count() const { return out_ - begin_; }

  void start_level(Index level) {
    level_ = level;
    first_ = static_cast<std::int32_t>(pyramid_.first[level]);
    common_end_ = static_cast<std::int32_t>(std::min(common_ >> level, Index{1} << 30));
    complete_ = static_cast<std::int32_t>(shape_.keys / (shape_.block << level));
    bias_ = static_cast<float>(level + log2_exact(shape_.block)) * kLn2;  // a complete node holds a power of two
  }

  void add(std::int32_t index, std::uint32_t rows) {
    if (index >= common_end_) rows &= rows_outside(index);
    *out_ = {first_ + index, bias_, rows};
    if (index >= complete_) out_->bias = bias_of_last(index);
    out_ += rows != 0 ? 1 : 0;
  }

 private:
  // A node at the end of the keys may hold fewer tokens; one behind the end is never listed.
  float bias_of_last(Index index) const {
    return std::log(static_cast<float>(std::max<Index>(1, shape_.keys - (index << level_) * shape_.block)));
  }

  // Rows for which all blocks of the node lie before their first bound or behind their last.
  std::uint32_t rows_outside(Index index) const {
    std::uint32_t rows = 0;
    for (int i = 0; i < count_; ++i) {
      const bool before = index < bounds_[i].first >> level_;
      const bool behind = bounds_[i].last != kNone && index > bounds_[i].last >> level_;
      if (before || behind) rows |= bounds_[i].rows;
    }
    return rows;
  }

  const PlanShape& shape_;
  const PackedPyramid& pyramid_;
  const Bounds* bounds_;
  int count_;
  const FarEntry* begin_;
  FarEntry* out_;
  Index common_, level_ = 0;
  std::int32_t common_end_ = 0, complete_ = 0;  // nodes [0, common_end) lie before every bound
  std::int32_t first_ = 0;
  float bias_ = 0;
};

// Adds the siblings of held nodes, for the rows that do not hold the sibling itself, and makes the nodes their parents,
// each once. held[count] is nobody. No branch: which neighbours are siblings cannot be guessed.
Index climb(HeldNode* held, Index count, Index nodes, FarList& far) {
  Index last = -1;
  HeldNode before = kNobody;
  for (Index i = 0; i < count; ++i) {
    const HeldNode node = held[i], behind = held[i + 1];
    const std::int32_t sibling = node.index ^ 1, parent = node.index >> 1;
    const std::uint32_t its_rows =
        (before.index == sibling ? before.rows : 0) | (behind.index == sibling ? behind.rows : 0);
    far.add(sibling, sibling < nodes ? node.rows & ~its_rows : 0);
    const bool same = before.index == sibling;
    last += same ? 0 : 1;
    held[last] = {parent, node.rows | (same ? before.rows : 0)};
    before = node;
  }
  held[last + 1] = kNobody;
  return last + 1;
}

}  // namespace

void merge_lists(std::span<const QuadPosition> positions, std::vector<HeldNode>& kept) {
  constexpr std::int32_t kEnd = std::numeric_limits<std::int32_t>::max();
  const std::int32_t* at[kQuad];
  const std::int32_t* end[kQuad];
  std::int32_t next[kQuad] = {kEnd, kEnd, kEnd, kEnd};
  std::uint32_t rows[kQuad] = {};
  for (std::size_t i = 0; i < positions.size(); ++i) {
    at[i] = positions[i].list.data();
    end[i] = at[i] + positions[i].list.size();
    next[i] = at[i] < end[i] ? *at[i] : kEnd;
    rows[i] = positions[i].rows;
  }
  kept.clear();
  while (true) {
    const std::int32_t block = std::min(std::min(next[0], next[1]), std::min(next[2], next[3]));
    if (block == kEnd) return;
    std::uint32_t who = 0;
    for (int i = 0; i < kQuad; ++i) {
      if (next[i] != block) continue;
      who |= rows[i];
      next[i] = ++at[i] < end[i] ? *at[i] : kEnd;
    }
    kept.push_back({block, who});
  }
}

void build_entries(const PlanShape& shape, std::span<const QuadPosition> positions, std::span<const HeldNode> kept,
                   std::vector<Entry>& entries) {
  entries.clear();
  const NearRuns near(shape, positions);
  Index near_begin = shape.keys, near_end = 0;
  for (int i = 0; i < near.count; ++i) {
    if (near.of[i].size() == 0) continue;
    near_begin = std::min(near_begin, near.of[i].begin);
    near_end = std::max(near_end, near.of[i].end);
  }
  // As many as there are if no block is larger or smaller than a unit.
  entries.reserve(kept.size() + static_cast<std::size_t>(std::max<Index>(0, near_end - near_begin) / kUnit + 2));
  std::size_t i = 0;
  for (; i < kept.size() && kept[i].index * shape.block < near_begin; ++i) append_block(shape, kept[i], entries);
  append_near(shape, near, entries);
  for (; i < kept.size(); ++i) append_block(shape, kept[i], entries);
  sort_units(entries);
}

// A node is in a row's far field if its parent holds a kept block (or a bound) of the row and it does not itself; on
// the tallest level the first condition falls away.
Index build_far_entries(const PlanShape& shape, std::span<const QuadPosition> positions, const PackedPyramid& pyramid,
                        std::vector<HeldNode>& held, std::vector<FarEntry>& entries) {
  Bounds bounds[kQuad];
  const int count = add_bounds(shape, positions, bounds, held);
  if (count == 0) return 0;
  merge_equal(held);
  const Index top = std::min<Index>(shape.far_levels, pyramid.levels - 1);
  const Index top_nodes = pyramid.first[top + 1] - pyramid.first[top];
  const std::size_t most = held.size() * static_cast<std::size_t>(top) + static_cast<std::size_t>(top_nodes) + 1;
  if (entries.size() < most) entries.resize(most);
  FarList far(shape, pyramid, bounds, count, entries.data());
  auto nodes = static_cast<Index>(held.size());
  held.push_back(kNobody);
  for (Index level = 0; level < top; ++level) {
    far.start_level(level);
    nodes = climb(held.data(), nodes, far.nodes(level), far);
  }
  held.resize(static_cast<std::size_t>(nodes));
  far.start_level(top);
  auto node = held.begin();
  for (std::int32_t index = 0; index < top_nodes; ++index) {
    const bool is_held = node != held.end() && node->index == index;
    std::uint32_t rows = 0;
    for (int i = 0; i < count; ++i) rows |= bounds[i].rows;
    far.add(index, rows & ~(is_held ? node->rows : 0U));
    if (is_held) ++node;
  }
  return far.count();
}

}  // namespace hsattn::cpu
