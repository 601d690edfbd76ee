// Caches are objects with a state, and ops take tensors and numbers: here they go by a number that is never used again.
#include <map>
#include <memory>
#include <mutex>

#include "hsattn/cache/cache.h"
#include "torch_ops/executor.h"
#include "torch_ops/ops.h"

namespace hsattn::torch_ops {
namespace {

// One cache. Calls on it take turns.
struct Entry {
  std::mutex mutex;
  KeyValueCache cache;

  explicit Entry(KeyValueCache&& made) : cache(std::move(made)) {}
};

class Registry {
 public:
  Index add(KeyValueCache&& cache) {
    auto entry = std::make_shared<Entry>(std::move(cache));
    const std::lock_guard lock(mutex_);
    entries_.emplace(++last_, std::move(entry));
    return last_;
  }
  std::shared_ptr<Entry> find(Index handle) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(handle);
    check(found != entries_.end(), "cache: there is no cache ", handle, "; it was freed, or never made");
    return found->second;
  }
  void remove(Index handle) {
    const std::lock_guard lock(mutex_);
    entries_.erase(handle);
  }

 private:
  std::mutex mutex_;
  std::map<Index, std::shared_ptr<Entry>> entries_;
  Index last_ = 0;
};

Registry& registry() {
  static Registry caches;
  return caches;
}

template <class Body>
auto with_cache(Index handle, const Body& body) {
  const std::shared_ptr<Entry> entry = registry().find(handle);
  const std::lock_guard lock(entry->mutex);
  return body(entry->cache);
}

DType type_from_name(const std::string& name) {
  for (const DType type : {DType::kFloat32, DType::kBFloat16, DType::kFloat16, DType::kFloat64}) {
    if (name == name_of(type)) return type;
  }
  throw InvalidArgument(concat("cache: dtype is '", name, "'; it must be float32, bfloat16 or float16"));
}

}  // namespace

Index cache_new(Index sequences, Index kv_heads, Index dim, const std::string& dtype, const std::string& pattern,
                const Budgets& budgets, Index page, std::optional<bool> rounded_keys) {
  const CacheOptions options{.kv_heads = kv_heads,
                             .dim = dim,
                             .dtype = type_from_name(dtype),
                             .plan = options_from(pattern, true, budgets),
                             .page = page,
                             .rounded_keys = rounded_keys};
  return registry().add(KeyValueCache(options, sequences));
}

void cache_free(Index handle) { registry().remove(handle); }

void cache_append(Index handle, const Tensor& k_given, const Tensor& v_given, std::optional<Index> sequence) {
  const Tensor k = readable("append", "k", k_given), v = readable("append", "v", v_given);
  TorchExecutor executor;
  with_cache(handle, [&](KeyValueCache& cache) {
    if (sequence) return cache.append(*sequence, const_view(k), const_view(v), executor);
    cache.append(const_view(k), const_view(v), executor);
  });
}

std::tuple<Tensor, Tensor> cache_attend(Index handle, const Tensor& q_given, const std::vector<Index>& sequences,
                                        const std::string& pattern, const Budgets& budgets,
                                        std::optional<double> scale) {
  const PlanOptions options = options_from(pattern, true, budgets);
  const Tensor q = readable("attend", "q", q_given);
  const Tensor o = new_like(q), lse = new_tensor(q, {q.size(0), q.size(1), q.size(2)}, lse_type_of(q));
  const AttentionOutputs out{view(o), lse.mutable_data_ptr()};
  TorchExecutor executor;
  with_cache(handle, [&](KeyValueCache& cache) {
    cache.attend(sequences, const_view(q), options, scale, out, nullptr, executor);
  });
  return {o, lse};
}

std::tuple<Tensor, Tensor> cache_tokens(Index handle, const Tensor& like, Index sequence) {
  return with_cache(handle, [&](const KeyValueCache& cache) {
    const std::vector<Index> shape{1, cache.options().kv_heads, cache.length(sequence), cache.options().dim};
    const Tensor k = new_tensor(like, shape), v = new_tensor(like, shape);
    cache.copy_tokens(sequence, 0, view(k), view(v));
    return std::tuple(k, v);
  });
}

void cache_crop(Index handle, Index sequence, Index length) {
  with_cache(handle, [&](KeyValueCache& cache) { cache.crop(sequence, length); });
}

Index cache_fork(Index handle, Index sequence) {
  return with_cache(handle, [&](KeyValueCache& cache) { return cache.fork(sequence); });
}

void cache_reorder(Index handle, const std::vector<Index>& parents) {
  with_cache(handle, [&](KeyValueCache& cache) { cache.reorder(parents); });
}

std::vector<Index> cache_lengths(Index handle) {
  return with_cache(handle, [&](const KeyValueCache& cache) {
    std::vector<Index> lengths;
    for (Index i = 0; i < cache.sequences(); ++i) lengths.push_back(cache.length(i));
    return lengths;
  });
}

Index cache_bytes(Index handle) {
  return with_cache(handle, [&](const KeyValueCache& cache) { return cache.bytes(); });
}

void cache_save(Index handle, const std::string& path) {
  with_cache(handle, [&](const KeyValueCache& cache) { cache.save(path); });
}

Index cache_load(const std::string& path) { return registry().add(KeyValueCache::load(path)); }

std::tuple<std::string, std::string, Budgets> cache_options(Index handle) {
  return with_cache(handle, [&](const KeyValueCache& cache) {
    const CacheOptions& o = cache.options();
    return std::tuple(std::string(name_of(o.dtype)), std::string(name_of(o.plan.pattern)), budgets_of(o.plan.hsa));
  });
}

}  // namespace hsattn::torch_ops
