#include "hsattn/plan/plan.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <sstream>
#include <utility>

#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/plan/budgets.h"
#include "hsattn/plan/patterns/patterns.h"

namespace hsattn {
namespace {

constexpr Index kNoLevelLimit = 40;  // 2^40 blocks: taller than any sequence

// Kernels number units of 8 tokens and nodes of all levels, twice as many as blocks, with 31 bits.
constexpr Index kMostKeys = Index{1} << 33, kMostBlocks = Index{1} << 30;
constexpr Index kMostIds = Index{1} << 56;  // of a plan; far above any memory, far below overflow

Range near_window(const PlanShape& s, Index position) {
  if (s.causal && position < 0) return {0, 0};
  const Index begin = std::clamp<Index>(floor_div(position - s.window, s.node) * s.node, 0, s.keys);
  const Index end = s.causal ? std::min(position + 1, s.keys)
                             : std::clamp<Index>(ceil_div(position + s.window + 1, s.node) * s.node, 0, s.keys);
  return {begin, std::max(begin, end)};
}

// Tokens that the near window leaves out on both sides.
Index past_tokens(const PlanShape& s, Index position) {
  const Range near = near_window(s, position);
  return near.begin + (s.causal ? 0 : s.keys - near.end);
}

// Cuts blocks [begin, end) into maximal nodes. `open_end`: blocks past the sequence count as free, so that the last
// node may be ragged.
void cut_gap(const PlanShape& s, Index begin, Index end, bool open_end, std::vector<FarNode>& out) {
  while (begin < end) {
    Index level = begin == 0 ? s.far_levels : std::min<Index>(s.far_levels, std::countr_zero(std::uint64_t(begin)));
    // The smallest level that reaches the end is enough: taller nodes would only add blocks that do not exist.
    const Index reach = std::bit_width(std::uint64_t(end - begin - 1));  // 2^reach >= end - begin
    level = std::min(level, reach);
    if (!open_end && (begin + (Index{1} << level)) > end) --level;
    const Index next = std::min(end, begin + (Index{1} << level));
    out.push_back({level, begin >> level, std::min(s.keys, next * s.block) - begin * s.block});
    begin = next;
  }
}

void cut_range(const PlanShape& s, Range range, std::span<const std::int32_t> kept, std::vector<FarNode>& out) {
  const bool reaches_end = range.end == s.blocks();
  Index begin = range.begin;
  for (const Index block : kept) {
    if (!range.contains(block)) continue;
    cut_gap(s, begin, block, false, out);
    begin = block + 1;
  }
  cut_gap(s, begin, range.end, reaches_end && !s.causal, out);
}

std::span<const std::int32_t> without_padding(const std::int32_t* list, Index slots) {
  Index count = slots;
  while (count > 0 && list[count - 1] < 0) --count;
  return {list, static_cast<std::size_t>(count)};
}

struct Average {
  Index sum = 0, count = 0, most = 0;

  void add(Index value) {
    sum += value;
    ++count;
    most = std::max(most, value);
  }
};

std::ostream& operator<<(std::ostream& out, const Average& a) {
  const double average = a.count == 0 ? 0.0 : static_cast<double>(a.sum) / static_cast<double>(a.count);
  return out << average << " on average, " << a.most << " at most";
}

// What all shapes keep to, be they made by plan_shape() or by hand: nothing that is computed from them overflows.
void check_shape(const PlanShape& s) {
  check(s.batch >= 0 && s.kv_heads >= 0 && s.queries >= 0 && s.keys >= 0, "plan: sizes are batch ", s.batch,
        ", kv_heads ", s.kv_heads, ", queries ", s.queries, ", keys ", s.keys, "; none may be negative");
  check(s.block >= 1 && s.block <= 64 && std::has_single_bit(static_cast<std::uint64_t>(s.block)), "plan: block is ",
        s.block, "; it must be a power of two from 1 to 64");
  check(s.node >= s.block && s.node <= 64 && std::has_single_bit(static_cast<std::uint64_t>(s.node)), "plan: node is ",
        s.node, ", block is ", s.block, "; node must be a power of two from block to 64");
  check(s.parts >= 1 && s.parts <= s.node && std::has_single_bit(static_cast<std::uint64_t>(s.parts)),
        "plan: parts is ", s.parts, ", node is ", s.node, "; parts must be a power of two up to node");
  check(s.sinks % s.blocks_of_node() == 0, "plan: sinks are ", s.sinks, " blocks, of which a node has ",
        s.blocks_of_node(), "; they must be whole nodes");
  check(s.node == s.block || !s.far_field, "plan: node is ", s.node, ", block is ", s.block,
        ", and the far field is on; they must be equal then");
  check(s.keys <= kMostKeys && s.blocks() <= kMostBlocks, "plan: ", s.keys, " keys in blocks of ", s.block, " are ",
        s.blocks(), " blocks; there may be at most 2^33 keys and 2^30 blocks");
  for (const auto& [name, value] : {std::pair{"window", s.window},
                                    {"dense_until", s.dense_until},
                                    {"sinks", s.sinks},
                                    {"kept", s.kept},
                                    {"global_tokens", s.global_tokens}}) {
    check(value >= 0 && value <= kMostIds, "plan: ", name, " is ", value, "; it must be from 0 to 2^56");
  }
  check(s.far_levels >= 0 && s.far_levels <= kNoLevelLimit, "plan: far_levels is ", s.far_levels,
        "; it must be from 0 to ", kNoLevelLimit);
  const double positions =
      static_cast<double>(s.batch) * static_cast<double>(s.kv_heads) * static_cast<double>(s.queries);
  check(positions * static_cast<double>(s.slots()) < static_cast<double>(kMostIds), "plan: ", s.batch, " * ",
        s.kv_heads, " * ", s.queries, " lists of ", s.slots(), " blocks; their product must be below 2^56");
}

void check_list(const PlanShape& s, Index query, const std::int32_t* list) {
  const Range left = s.left(s.position(query));
  const Range right = s.right(s.position(query));
  Index last = -1;
  bool ended = false;
  for (Index i = 0; i < s.slots(); ++i) {
    const Index block = list[i];
    if (block == -1) {
      ended = true;
      continue;
    }
    check(!ended, "plan: query ", query, " has block ", block, " after the end of its list; -1 ends a list");
    check(block > last, "plan: query ", query, " has block ", block, " after block ", last, "; blocks must ascend");
    check(left.contains(block) || right.contains(block), "plan: query ", query, " lists block ", block,
          "; its past is blocks [", left.begin, ", ", left.end, ") and [", right.begin, ", ", right.end, ")");
    last = block;
  }
}

}  // namespace

bool PlanShape::dense(Index position) const {
  if (position >= 0 && position < global_tokens) return true;
  return dense_until > 0 && past_tokens(*this, position) <= dense_until;
}

Range PlanShape::near(Index position) const {
  if (!dense(position)) return near_window(*this, position);
  return {0, causal ? std::clamp<Index>(position + 1, 0, keys) : keys};
}

Range PlanShape::left(Index position) const {
  if (dense(position)) return {0, 0};
  return {0, near_window(*this, position).begin / block};
}

Range PlanShape::right(Index position) const {
  if (causal || dense(position)) return {blocks(), blocks()};
  return {ceil_div(near_window(*this, position).end, block), blocks()};
}

Range PlanShape::left_nodes(Index position) const { return {0, left(position).end / blocks_of_node()}; }

Range PlanShape::right_nodes(Index position) const {
  return {ceil_div(right(position).begin, blocks_of_node()), nodes()};
}

std::span<const std::int32_t> PlanView::list(Index batch, Index kv_head, Index query) const {
  const Index slots = shape.slots();
  if (slots == 0) return {};
  return without_padding(blocks + ((batch * shape.kv_heads + kv_head) * shape.queries + query) * slots, slots);
}

std::span<const std::int32_t> Plan::list(Index batch, Index kv_head, Index query) const {
  return PlanView(*this).list(batch, kv_head, query);
}

void far_field_of(const PlanShape& shape, Index position, std::span<const std::int32_t> kept,
                  std::vector<FarNode>& out) {
  out.clear();
  if (!shape.far_field) return;
  cut_range(shape, shape.left(position), kept, out);
  cut_range(shape, shape.right(position), kept, out);
}

Index dense_until_of(const HsaOptions& o, DType type, Isa isa) {
  constexpr Index kUsual = 1024, kTiles = 8192, kTilesWithoutRescoring = 2048;
  if (o.dense_until >= 0) return o.dense_until;
  const Index usual = o.tail > 0 ? std::max(kUsual, o.candidates) : kUsual;
  if (type != DType::kBFloat16 || isa != Isa::kAmx) return usual;
  return std::max(usual, o.candidates > o.largest_top_k() ? kTiles : kTilesWithoutRescoring);
}

PlanShape plan_shape(const PlanOptions& options, DType type, Index batch, Index kv_heads, Index queries, Index keys) {
  check_options(options);
  const HsaOptions& o = options.hsa;
  PlanShape s{.batch = batch,
              .kv_heads = kv_heads,
              .queries = queries,
              .keys = keys,
              .block = o.block,
              .causal = options.causal};
  if (o.levels > 0) s.block = std::min<Index>(o.block, Index{1} << o.levels);
  s.window = options.pattern == Pattern::kFull ? std::max(queries, keys) : o.window;
  const PatternEntry& pattern = entry_of(options.pattern);
  s.node = s.block;
  if (pattern.lists) {
    if (pattern.rule == nullptr)
      s.node = std::max(s.block, o.levels > 0 ? std::min(o.node, Index{1} << o.levels) : o.node);
    s.sinks = ceil_div(o.sinks, s.node) * s.blocks_of_node();
    s.kept = ceil_div(pattern.rule == nullptr ? o.largest_top_k() : o.top_k, s.block);
  }
  check_shape(s);
  if (!pattern.lists) return s;
  if (pattern.rule != nullptr) {
    s.global_tokens = pattern.global_tokens && !s.causal ? s.sinks * s.block : 0;
    return s;
  }
  check(o.head_top_k.empty() || std::ssize(o.head_top_k) == kv_heads, "options: head_top_k has ", o.head_top_k.size(),
        " numbers; there must be one for each key/value head, ", kv_heads);
  s.dense_until = std::max(dense_until_of(o, type), s.slots() * s.block);
  s.far_field = o.far_field;
  s.far_levels = o.levels > 0 ? o.levels - log2_exact(s.block) : kNoLevelLimit;
  s.pooling = o.pooling;
  s.tail = tail_share(o);
  s.parts = std::min(o.parts, s.node);
  return s;
}

void check_plan(const PlanView& plan) {
  const PlanShape& s = plan.shape;
  check_shape(s);
  if (s.slots() == 0) return;
  check(plan.blocks != nullptr || s.batch * s.kv_heads * s.queries == 0, "plan: it has no lists; its shape needs ",
        s.slots(), " blocks for each position");
  for (Index list = 0; list < s.batch * s.kv_heads * s.queries; ++list) {
    check_list(s, list % s.queries, plan.blocks + list * s.slots());
  }
}

std::string describe(const PlanView& plan) {
  const PlanShape& s = plan.shape;
  const Index lists = s.batch * s.kv_heads * s.queries;
  Average attended, listed;
  for (Index i = 0; i < lists; ++i) {
    const Index query = i % std::max<Index>(s.queries, 1);
    const auto list = plan.list(i / (s.kv_heads * s.queries), i / s.queries % s.kv_heads, query);
    Index tokens = 0;
    for (const Index block : list) tokens += std::min(s.keys, (block + 1) * s.block) - block * s.block;
    if (!list.empty()) listed.add(tokens);
    attended.add(tokens + s.near(s.position(query)).size());
  }
  std::ostringstream text;
  text << "plan: batch " << s.batch << ", kv_heads " << s.kv_heads << ", queries " << s.queries << ", keys " << s.keys
       << (s.causal ? ", causal" : ", bidirectional") << "\n  block " << s.block << ", node " << s.node << ", window "
       << s.window << ", sinks " << s.sinks * s.block << ", kept " << s.kept * s.block << ", dense until "
       << s.dense_until << ", far field " << (s.far_field ? "on" : "off") << ", pooling " << name_of(s.pooling)
       << ", tail " << s.tail << ", parts " << s.parts << "\n  attended tokens: " << attended << "\n";
  if (s.global_tokens > 0) text << "  the first " << s.global_tokens << " positions attend everything\n";
  if (s.slots() > 0) text << "  listed tokens of positions that have a list: " << listed << "\n";
  return text.str();
}

}  // namespace hsattn
