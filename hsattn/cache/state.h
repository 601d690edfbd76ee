// What a KeyValueCache is made of.
#pragma once

#include <vector>

#include "hsattn/cache/cache.h"
#include "hsattn/cache/tables.h"
#include "hsattn/kernels/cpu/attend.h"

namespace hsattn {

struct KeyValueCache::State {
  CacheTables tables;
  std::vector<CachedSequence> sequences;
  std::vector<cpu::PackedHead> heads;  // of the last call
  cpu::ScratchPool scratch;

  explicit State(const CacheOptions& options) : tables(options) {}
};

/// Throws InvalidArgument or Unsupported.
void check_cache_options(const CacheOptions& options);

}  // namespace hsattn
