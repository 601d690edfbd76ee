#include "hsattn/cache/cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>
#include <unordered_set>

#include "hsattn/attention/checks.h"
#include "hsattn/base/buffer.h"
#include "hsattn/base/elements.h"
#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/base/view_checks.h"
#include "hsattn/cache/state.h"
#include "hsattn/plan/list_rule.h"

namespace hsattn {
namespace {

// Of CachedSequence::not_finite, besides the flags of units: a node is not finite, or an append failed.
constexpr std::uint8_t kLookCloser = 4;

bool searches(const PlanOptions& plan, const PlanShape& shape) {
  return shape.slots() > 0 && !lists_by_rule(plan.pattern);
}

const char* on_or_off(bool on) { return on ? "on" : "off"; }

// The cache keeps what the plan needs.
void check_plan_is_kept(const CacheOptions& kept, const PlanOptions& plan) {
  check(plan.causal, "attend: the plan is bidirectional; on a cache it must be causal");
  const PlanShape asked = plan_shape(plan, kept.dtype, 1, kept.kv_heads, 0, 0);
  if (!searches(plan, asked)) return;
  const PlanShape have = plan_shape(kept.plan, kept.dtype, 1, kept.kv_heads, 0, 0);
  check(searches(kept.plan, have), "attend: the plan is ", name_of(plan.pattern), ", the cache was made for ",
        name_of(kept.plan.pattern), " and has no pyramid; make it for a plan that searches");
  check(asked.node == have.node, "attend: the plan has nodes of ", asked.node, " tokens, the cache's pyramid of ",
        have.node, "; they must be equal");
  check(asked.parts == have.parts, "attend: the plan has ", asked.parts, " parts of a node, the cache's pyramid ",
        have.parts, "; they must be equal");
  check(asked.pooling == have.pooling, "attend: the plan's pooling is ", name_of(asked.pooling), ", the cache's is ",
        name_of(have.pooling), "; they must be equal");
  check(asked.tail == 0 || have.tail > 0, "attend: the plan has a tail of ", asked.tail,
        ", the cache was made without; make the cache with one");
  check(!asked.far_field || have.far_field, "attend: the plan's far field is ", on_or_off(asked.far_field),
        ", the cache's is ", on_or_off(have.far_field), "; make the cache with it");
}

void check_sequence(const char* who, Index sequence, std::size_t count) {
  check(sequence >= 0 && sequence < static_cast<Index>(count), who, ": sequence is ", sequence, "; the cache has ",
        count);
}

// k and v of `batch` sequences.
void check_tokens(const char* who, const CacheOptions& o, const ConstView& k, const ConstView& v, Index batch) {
  check_view(who, "k", k);
  ConstView right = k;
  right.batch = batch;
  right.heads = o.kv_heads;
  right.dim = o.dim;
  right.dtype = o.dtype;
  check_same(who, "k", k, "the cache", right);
  check_same(who, "v", v, "k", k);
}

void check_queries(const KeyValueCache& cache, std::span<const Index> sequences, const ConstView& q,
                   std::optional<double> scale, const AttentionOutputs& out) {
  const char* who = "attend";
  const CacheOptions& o = cache.options();
  check_view(who, "q", q);
  check(q.dtype == o.dtype, who, ": q is ", name_of(q.dtype), ", the cache ", name_of(o.dtype), "; they must be equal");
  check(q.dim == o.dim, who, ": q has head dimension ", q.dim, ", the cache ", o.dim, "; they must be equal");
  check(q.batch == static_cast<Index>(sequences.size()), who, ": q has batch ", q.batch, "; there are ",
        sequences.size(), " sequences");
  check(q.heads % o.kv_heads == 0, who, ": q has ", q.heads, " heads, the cache ", o.kv_heads,
        "; the first must be a multiple of the second");
  check(!scale || std::isfinite(*scale), who, ": scale is ", scale.value_or(0), "; it must be finite");
  for (const Index s : sequences) {
    check_sequence(who, s, static_cast<std::size_t>(cache.sequences()));
    check(q.tokens <= cache.length(s), who, ": q has ", q.tokens, " tokens, sequence ", s, " ", cache.length(s),
          "; append their keys and values first");
  }
  ConstView kv = q;  // no keys: outputs must lie apart from q and from each other
  kv.heads = o.kv_heads;
  kv.tokens = 0;
  check_outputs(who, {q, kv, kv, scale}, out);
}

// Packs tokens at the end of sequences that have room for them: sequence first + b gets batch b of k and v.
void pack(const CacheTables& tables, CachedSequence* sequences, const ConstView& k, const ConstView& v,
          Executor& executor) {
  constexpr Index kLeast = 64;  // units of a task
  const Index heads = k.batch * k.heads, tokens = k.tokens;
  std::vector<cpu::PackedHead> packed;
  packed.reserve(static_cast<std::size_t>(heads));
  for (Index i = 0; i < heads; ++i) {
    const CachedSequence& s = sequences[i / k.heads];
    packed.push_back(tables.head(s, i % k.heads, s.length + tokens));
  }
  const Index most = tokens / cpu::kUnit + 2;
  const Index per_task = executor.threads() == 1 ? most : std::max(kLeast, ceil_div(most, Index{8}));
  const Index chunks = ceil_div(most, per_task);
  executor.run(heads * chunks, [&](Index task) {
    const Index i = task / chunks, first = sequences[i / k.heads].length;
    const Index begin = first / cpu::kUnit + task % chunks * per_task;
    cpu::pack_units(cpu::stored_rows(k, i / k.heads, i % k.heads), cpu::stored_rows(v, i / k.heads, i % k.heads),
                    tables.request(), begin, std::min(packed[i].units, begin + per_task), packed[i], first);
  });
  executor.run(heads, [&](Index i) {
    CachedSequence& s = sequences[i / k.heads];
    std::uint8_t flags = make_nodes(tables, packed[i], s.length) ? 0 : kLookCloser;
    for (Index unit = s.length / cpu::kUnit; unit < packed[i].units; ++unit) flags |= *packed[i].not_finite[unit];
    s.not_finite[static_cast<std::size_t>(i % k.heads)] |= flags;
  });
  for (Index b = 0; b < k.batch; ++b) sequences[b].length += tokens;
}

// After an append that failed. Behind the length anything may lie, also in lanes of the last unit, whose flags tell.
void take_back(const CacheTables& tables, std::span<CachedSequence> sequences) {
  for (CachedSequence& s : sequences) {
    std::fill(s.not_finite.begin(), s.not_finite.end(), kLookCloser);
    tables.shrink(s, s.length);
  }
}

void append_to(const CacheTables& tables, std::span<CachedSequence> sequences, const ConstView& k, const ConstView& v,
               Executor& executor) {
  if (k.tokens == 0) return;
  try {
    for (CachedSequence& s : sequences) {
      plan_shape(tables.options().plan, k.dtype, 1, k.heads, 0, s.length + k.tokens);  // not too long
      tables.prepare(s, s.length + k.tokens);
    }
    pack(tables, sequences.data(), k, v, executor);
  } catch (const std::bad_alloc&) {
    take_back(tables, sequences);
    throw OutOfMemory("append: no memory for tables of pages");
  } catch (...) {
    take_back(tables, sequences);
    throw;
  }
}

// As write_row(), but -0 stays what it is.
void write_exactly(DType type, const float* from, Index dim, std::byte* row) {
  with_element_type(type, [&](auto element) {
    auto* to = reinterpret_cast<decltype(element)*>(row);
    for (Index d = 0; d < dim; ++d) to[d] = static_cast<decltype(element)>(from[d]);
  });
}

}  // namespace

void check_cache_options(const CacheOptions& o) {
  constexpr Index kSmallestPage = 64, kLargestPage = 65536;
  check(o.kv_heads >= 1, "cache: kv_heads is ", o.kv_heads, "; it must be at least 1");
  check(o.dim >= 8 && o.dim <= 256, "cache: dim is ", o.dim, "; it must be from 8 to 256");
  check(o.page >= kSmallestPage && o.page <= kLargestPage && (o.page & (o.page - 1)) == 0, "cache: page is ", o.page,
        "; it must be a power of two from ", kSmallestPage, " to ", kLargestPage);
  if (o.dtype == DType::kFloat64) {
    throw Unsupported(
        "cache: dtype is float64; it must be float32, bfloat16 or float16 (attention_forward takes float64, with whole "
        "sequences)");
  }
  if (!o.plan.causal) {
    throw Unsupported("cache: the plan is bidirectional; a cache must be causal, as what it holds grows at one end");
  }
  check_options(o.plan);
}

KeyValueCache::KeyValueCache(const CacheOptions& options, Index sequences) {
  check_cache_options(options);
  check(sequences >= 0, "cache: sequences is ", sequences, "; it must not be negative");
  with_memory_errors("cache", "the list of sequences", [&] {
    state_ = std::make_unique<State>(options);
    for (Index i = 0; i < sequences; ++i) state_->sequences.push_back(state_->tables.empty_sequence());
  });
}

KeyValueCache::~KeyValueCache() = default;
KeyValueCache::KeyValueCache(KeyValueCache&&) noexcept = default;
KeyValueCache& KeyValueCache::operator=(KeyValueCache&&) noexcept = default;

const CacheOptions& KeyValueCache::options() const { return state_->tables.options(); }

Index KeyValueCache::sequences() const { return static_cast<Index>(state_->sequences.size()); }

Index KeyValueCache::length(Index sequence) const {
  check_sequence("length", sequence, state_->sequences.size());
  return state_->sequences[static_cast<std::size_t>(sequence)].length;
}

Index KeyValueCache::bytes() const {
  std::unordered_set<const std::byte*> seen;
  Index bytes = 0;
  const auto add = [&](const PageList& pages) {
    for (Index i = 0; i < pages.count(); ++i) bytes += seen.insert(pages.data()[i]).second ? pages.page_bytes() : 0;
  };
  for (const CachedSequence& s : state_->sequences) {
    add(s.tokens);
    for (const PageList& level : s.levels) add(level);
    add(s.parts);
  }
  return bytes;
}

void KeyValueCache::append(Index sequence, const ConstView& k, const ConstView& v, Executor& executor) {
  check_sequence("append", sequence, state_->sequences.size());
  check_tokens("append", options(), k, v, 1);
  append_to(state_->tables, {&state_->sequences[static_cast<std::size_t>(sequence)], 1}, k, v, executor);
}

void KeyValueCache::append(const ConstView& k, const ConstView& v, Executor& executor) {
  check_tokens("append", options(), k, v, sequences());
  append_to(state_->tables, state_->sequences, k, v, executor);
}

void KeyValueCache::crop(Index sequence, Index length) {
  check_sequence("crop", sequence, state_->sequences.size());
  CachedSequence& s = state_->sequences[static_cast<std::size_t>(sequence)];
  check(length >= 0 && length <= s.length, "crop: length is ", length, "; it must be from 0 to ", s.length,
        ", the length of sequence ", sequence);
  s.length = length;
  state_->tables.shrink(s, length);
}

Index KeyValueCache::fork(Index sequence) {
  check_sequence("fork", sequence, state_->sequences.size());
  try {
    CachedSequence copy = state_->sequences[static_cast<std::size_t>(sequence)];
    state_->sequences.push_back(std::move(copy));
  } catch (const std::bad_alloc&) {
    throw OutOfMemory("fork: no memory for the list of pages");
  }
  return sequences() - 1;
}

void KeyValueCache::reorder(std::span<const Index> parents) {
  for (const Index parent : parents) check_sequence("reorder", parent, state_->sequences.size());
  try {
    std::vector<CachedSequence> children;
    children.reserve(parents.size());
    for (const Index parent : parents) children.push_back(state_->sequences[static_cast<std::size_t>(parent)]);
    state_->sequences = std::move(children);
  } catch (const std::bad_alloc&) {
    throw OutOfMemory("reorder: no memory for lists of pages");
  }
}

void KeyValueCache::attend(std::span<const Index> sequences, const ConstView& q, const PlanOptions& plan,
                           std::optional<double> scale, const AttentionOutputs& out, std::int32_t* keep,
                           Executor& executor) {
  check_options(plan);
  check_plan_is_kept(options(), plan);
  check_queries(*this, sequences, q, scale, out);
  if (q.elements() == 0) return;
  try {
    std::vector<cpu::PackedHead>& heads = state_->heads;
    heads.clear();
    for (const Index i : sequences) {
      const CachedSequence& s = state_->sequences[static_cast<std::size_t>(i)];
      for (Index h = 0; h < options().kv_heads; ++h) heads.push_back(state_->tables.head(s, h, s.length));
    }
    cpu::attend(heads, options().kv_heads, q, plan, scale_or_default(scale, q.dim), out, keep, state_->scratch,
                executor);
  } catch (const std::bad_alloc&) {
    throw OutOfMemory("attend: no memory for lists that had to grow");
  }
}

void KeyValueCache::attend(const ConstView& q, std::optional<double> scale, const AttentionOutputs& out,
                           Executor& executor) {
  std::vector<Index> all(state_->sequences.size());
  std::iota(all.begin(), all.end(), Index{0});
  attend(all, q, options().plan, scale, out, nullptr, executor);
}

void KeyValueCache::copy_tokens(Index sequence, Index first, const View& k, const View& v) const {
  const char* who = "copy_tokens";
  check_sequence(who, sequence, state_->sequences.size());
  check_tokens(who, options(), as_const(k), as_const(v), 1);
  const CachedSequence& s = state_->sequences[static_cast<std::size_t>(sequence)];
  check(first >= 0 && first <= s.length && k.tokens <= s.length - first, who, ": ", k.tokens, " tokens from ", first,
        " on are asked for; sequence ", sequence, " has ", s.length);
  const Bytes to_k = bytes_of("k", as_const(k)), to_v = bytes_of("v", as_const(v));
  check_not_folded(who, "k", as_const(k));
  check_not_folded(who, "v", as_const(v));
  check_apart(who, to_k, {to_v});
  float row[cpu::kMaxDim];
  for (Index h = 0; h < options().kv_heads; ++h) {
    const cpu::PackedHead head = state_->tables.head(s, h, s.length);
    const cpu::WritableRows keys = cpu::writable_rows(k, 0, h), values = cpu::writable_rows(v, 0, h);
    for (Index t = 0; t < k.tokens; ++t) {
      cpu::read_packed_key(head, first + t, row);
      write_exactly(k.dtype, row, k.dim, keys.row(t));
      cpu::read_packed_value(head, first + t, row);
      write_exactly(v.dtype, row, v.dim, values.row(t));
    }
  }
}

}  // namespace hsattn
