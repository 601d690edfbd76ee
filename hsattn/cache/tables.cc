#include "hsattn/cache/tables.h"

#include <algorithm>

#include "hsattn/base/buffer.h"
#include "hsattn/base/cpu.h"
#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/kernels/cpu/jobs.h"
#include "hsattn/kernels/pool.h"
#include "hsattn/plan/list_rule.h"

namespace hsattn {
namespace {

constexpr Index kFloat = static_cast<Index>(sizeof(float));
constexpr Index kKeptTokens = 128;  // smaller nodes are pooled again from tokens rather than kept as floats

// Places tables one behind the other.
class Places {
 public:
  Index add(Index bytes) {
    const Index at = next_;
    next_ += round_up(bytes, kAlignment);
    return at;
  }
  Index all() const { return next_; }

 private:
  Index next_ = 0;
};

PageTables token_tables(const cpu::PackedHead& shape, const cpu::PackRequest& request, Index tokens) {
  const Index units = tokens / cpu::kUnit;
  Places places;
  PageTables t;
  t.keys_t = places.add(units * cpu::kUnit * shape.depth * kFloat);
  t.values = places.add(units * shape.unit_rows * shape.padded_dim * kFloat);
  if (request.rescore) {
    t.keys_int8 = places.add(units * cpu::kUnit * shape.padded_dim);
    t.key_scales = places.add(units * cpu::kUnit * kFloat);
  }
  t.not_finite = places.add(units);
  t.head_bytes = places.all();
  return t;
}

PageTables node_tables(const cpu::PackedHead& shape, const cpu::PackRequest& request, Index nodes, bool floats,
                       bool values) {
  Places places;
  PageTables t;
  if (request.search) {
    t.keys_int8 = places.add(nodes * shape.padded_dim);
    t.key_scales = places.add(nodes * kFloat);
  }
  if (floats) t.node_keys = places.add(nodes * shape.padded_dim * kFloat);
  if (values) t.node_values = places.add(nodes * shape.padded_dim * kFloat);
  t.head_bytes = places.all();
  return t;
}

template <class T>
cpu::Units<T> units_in(const PageList& pages, Index head_offset, Index table, Index size, Index per_page) {
  if (table < 0 || pages.count() == 0) return {};
  return {nullptr, size, pages.data(), head_offset + table, static_cast<int>(log2_exact(per_page))};
}

cpu::PackRequest request_of(const CacheOptions& options) {
  const PlanShape shape = plan_shape(options.plan, options.dtype, 1, options.kv_heads, 0, 0);
  const bool search = shape.slots() > 0 && !lists_by_rule(options.plan.pattern);
  cpu::PackRequest request = cpu::request_for(shape, search, false);
  cpu::request_values(selected_isa(), options.dtype, request);
  request.rescore = search && options.rounded_keys.value_or(!request.pairs);
  return request;
}

}  // namespace

CachedSequence::CachedSequence(Index token_bytes, Index part_bytes, Index kv_heads)
    : tokens(token_bytes), parts(part_bytes), not_finite(static_cast<std::size_t>(kv_heads), 0) {}

CacheTables::CacheTables(const CacheOptions& options)
    : options_(options), request_(request_of(options)), shape_(cpu::shape_packed_head(0, options.dim, request_)) {
  if (!request_.far_field) first_kept_level_ = log2_exact(std::max(Index{1}, kKeptTokens / request_.block));
  tokens_ = token_tables(shape_, request_, options.page);
  const bool far = request_.far_field;
  bare_nodes_ = node_tables(shape_, request_, kNodes, false, far);
  nodes_ = node_tables(shape_, request_, kNodes, true, far);
  const bool whole = request_.tail && !has_parts();
  smallest_nodes_ = node_tables(shape_, request_, kNodes, first_kept_level_ == 0, far || whole);
  parts_ = node_tables(shape_, request_, kNodes, false, request_.tail);
}

CachedSequence CacheTables::empty_sequence() const {
  const Index heads = options_.kv_heads;
  return {heads * tokens_.head_bytes, heads * parts_.head_bytes, heads};
}

Index CacheTables::levels(Index length) const {
  if (!has_nodes()) return 0;
  Index levels = 0;
  while (nodes(length, levels) > 0) ++levels;
  return levels;
}

void CacheTables::prepare(CachedSequence& sequence, Index length) const {
  const Index first = sequence.length;
  sequence.tokens.prepare(ceil_div(length, options_.page), first / options_.page);
  sequence.parts.prepare(ceil_div(parts(length), kNodes), parts(first) / kNodes);
  for (Index level = 0; level < levels(length); ++level) {
    if (level == static_cast<Index>(sequence.levels.size())) {
      sequence.levels.emplace_back(options_.kv_heads * tables_of_level(level).head_bytes);
    }
    const Index made = nodes(first, level), needed = nodes(length, level);
    if (needed > made) sequence.levels[level].prepare(ceil_div(needed, kNodes), made / kNodes);
  }
}

void CacheTables::shrink(CachedSequence& sequence, Index length) const {
  sequence.tokens.shrink(ceil_div(length, options_.page));
  sequence.parts.shrink(ceil_div(parts(length), kNodes));
  for (std::size_t level = 0; level < sequence.levels.size(); ++level) {
    sequence.levels[level].shrink(ceil_div(nodes(length, static_cast<Index>(level)), kNodes));
  }
}

cpu::PackedHead CacheTables::head(const CachedSequence& sequence, Index kv_head, Index length) const {
  cpu::PackedHead head = shape_;
  head.keys = length;
  head.units = ceil_div(length, cpu::kUnit);
  head.any_not_finite = sequence.not_finite[static_cast<std::size_t>(kv_head)] != 0;
  const Index units = options_.page / cpu::kUnit, at = kv_head * tokens_.head_bytes;
  const PageList& pages = sequence.tokens;
  head.keys_t = units_in<float>(pages, at, tokens_.keys_t, cpu::kUnit * head.depth, units);
  head.values = units_in<float>(pages, at, tokens_.values, head.unit_rows * head.padded_dim, units);
  head.keys_int8 = units_in<std::uint8_t>(pages, at, tokens_.keys_int8, cpu::kUnit * head.padded_dim, units);
  head.key_scales = units_in<float>(pages, at, tokens_.key_scales, cpu::kUnit, units);
  head.not_finite = units_in<std::uint8_t>(pages, at, tokens_.not_finite, 1, units);
  if (!has_nodes()) return head;
  cpu::PackedPyramid& p = head.pyramid;
  const Index blocks = ceil_div(length, request_.block);
  p.levels = pyramid_levels(blocks);
  for (Index level = 0; level < p.levels; ++level) {
    p.first[level + 1] = p.first[level] + ceil_div(blocks, Index{1} << level);
    if (level >= static_cast<Index>(sequence.levels.size())) continue;
    p.level[level] = packed_level(sequence.levels[level], tables_of_level(level), kv_head);
  }
  if (has_parts()) p.parts = packed_level(sequence.parts, parts_, kv_head);
  return head;
}

cpu::PackedLevel CacheTables::packed_level(const PageList& pages, const PageTables& tables, Index kv_head) const {
  const Index from = kv_head * tables.head_bytes, padded = shape_.padded_dim, units = kNodes / cpu::kUnit;
  cpu::PackedLevel level;
  level.keys = units_in<float>(pages, from, tables.node_keys, padded, kNodes);
  level.values = units_in<float>(pages, from, tables.node_values, padded, kNodes);
  level.keys_int8 = units_in<std::uint8_t>(pages, from, tables.keys_int8, cpu::kUnit * padded, units);
  level.key_scales = units_in<float>(pages, from, tables.key_scales, cpu::kUnit, units);
  return level;
}

}  // namespace hsattn
