#include "hsattn/baselines/linformer_job.h"

#include <algorithm>

#include "hsattn/base/math.h"
#include "hsattn/baselines/scan.h"
#include "hsattn/kernels/cpu/layout.h"

namespace hsattn {

LinformerShape::Context LinformerShape::context(Index number) const {
  if (!causal) return {{0, queries}, 1, {0, 0}};
  const Range own{number * segment, std::min(keys, (number + 1) * segment)};
  const auto as_query = [&](Index key) { return std::clamp<Index>(key - position(0), 0, queries); };
  return {{as_query(own.begin), as_query(own.end)}, number, own};
}

}  // namespace hsattn

namespace hsattn::cpu {

LinformerScratch::LinformerScratch(const LinformerJob& job, bool backward)
    : width(round_up(job.shape.most_rows(), kDimAlign)) {
  const Index padded = job.padded_dim, pieces = job.shape.pieces() * job.shape.rank * padded;
  for (Buffer<float>* buffer : {&projected_keys, &projected_values}) *buffer = zeros(pieces);
  for (Buffer<float>* buffer : {&keys, &values, &keys_t, &values_t}) *buffer = zeros(width * padded);
  for (Buffer<float>* buffer : {&q, &o}) *buffer = zeros(kQueryRows * padded);
  weights = zeros(kQueryRows * width);
  rows = zeros(kChunk * padded);
  if (!backward) return;
  for (Buffer<float>* buffer : {&dkeys, &dvalues}) *buffer = zeros(width * padded);
  for (Buffer<float>* buffer : {&dout, &dq}) *buffer = zeros(kQueryRows * padded);
  dweights = zeros(kQueryRows * width);
}

const LinformerKernels& linformer_kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512BFloat16) return avx512::kLinformerKernels;
  if (isa == Isa::kAvx2) return avx2::kLinformerKernels;
#endif
  static_cast<void>(isa);
  return portable::kLinformerKernels;
}

}  // namespace hsattn::cpu
