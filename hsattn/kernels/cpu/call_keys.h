// Keys of cached heads, rounded to bytes for one call: where a cache does not keep them, each cell of queries rounds
// its candidates as it rescores them, which a decode step does once but a prompt many times.
#pragma once

#include <span>
#include <vector>

#include "hsattn/base/buffer.h"
#include "hsattn/base/executor.h"
#include "hsattn/kernels/cpu/kernels.h"

namespace hsattn::cpu {

class CallKeys {
 public:
  // Rounds all keys of `heads` and points these at the result, which lives as long as this, where `queries` of the
  // search ask for each key so often that it takes less time. The bits are those of rounding later.
  CallKeys(std::span<PackedHead> heads, const PlanShape& shape, const SearchBudgets& search, Executor& executor);

 private:
  std::vector<Buffer<std::uint8_t>> bytes_;
  std::vector<Buffer<float>> scales_;
};

}  // namespace hsattn::cpu
