#include "hsattn/baselines/scan.h"

#include <algorithm>
#include <cmath>

#include "hsattn/base/math.h"
#include "hsattn/kernels/cpu/layout.h"

namespace hsattn::cpu {

Buffer<float> zeros(Index count) {
  auto buffer = allocate_buffer<float>(count, "attention: memory of a task");
  std::fill_n(buffer.get(), count, 0.0F);
  return buffer;
}

namespace {

ScanState empty_state(const PackedFeatures& f) {
  return {zeros(f.padded * f.padded_dim), zeros(f.padded), f.random ? kMasked : 0.0F, true};
}

}  // namespace

PackedFeatures::PackedFeatures(const FeatureMap& map, Index dimension, double scale)
    : random(map.projection != nullptr),
      dim(dimension),
      padded_dim(round_up(dim, kDimAlign)),
      count(map.count(dim)),
      padded(round_up(count, kDimAlign)) {
  if (!random) return;
  root_scale = static_cast<float>(std::sqrt(scale));
  rows = zeros(padded * padded_dim);
  columns = zeros(dim * padded);
  for (Index f = 0; f < count; ++f) {
    for (Index d = 0; d < dim; ++d) {
      rows[f * padded_dim + d] = columns[d * padded + f] = map.projection[f * dim + d];
    }
  }
}

ScanScratch::ScanScratch(const PackedFeatures& f)
    : state(empty_state(f)),
      x(zeros(kChunk * f.padded_dim)),
      v(zeros(kChunk * f.padded_dim)),
      o(zeros(kChunk * f.padded_dim)),
      phi_q(zeros(kChunk * f.padded)),
      phi_k(zeros(kChunk * f.padded)),
      phi_k_t(zeros(kChunk * f.padded)),
      weights(zeros(kChunk * kChunk)),
      exponents(zeros(kChunk)),
      tops(zeros(kChunk)),
      sums(zeros(kChunk)) {}

ScanBackwardScratch::ScanBackwardScratch(const PackedFeatures& f, Index chunks)
    : ScanScratch(f),
      state_size(f.dim * f.padded + f.padded),
      states(allocate_buffer<float>(chunks * state_size, "linear_attention_backward: states of a head")),
      state_exponents(zeros(chunks)),
      later(empty_state(f)),
      later_t(zeros(f.padded * f.padded_dim)),
      g(zeros(kChunk * f.padded_dim)),
      dv(zeros(kChunk * f.padded_dim)),
      h(zeros(kChunk)),
      v_t(zeros(kChunk * f.padded_dim)),
      dweights(zeros(kChunk * kChunk)),
      dphi_q(zeros(kChunk * f.padded)),
      dphi_k(zeros(kChunk * f.padded)) {}

const ScanKernels& scan_kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512 || isa == Isa::kAvx512BFloat16) return avx512::kScanKernels;
  if (isa == Isa::kAvx2) return avx2::kScanKernels;
#endif
  static_cast<void>(isa);
  return portable::kScanKernels;
}

void load_rows(const StoredRows& rows, Index head, Index begin, Index count, float factor, Index padded, float* to) {
  for (Index i = 0; i < count; ++i, to += padded) {
    read_row(rows.dtype, rows.row(begin + i, head), rows.dim, factor, to);
    std::fill(to + rows.dim, to + padded, 0.0F);
  }
}

void store_rows(const float* from, Index padded, Index begin, Index count, Index head, const WritableRows& rows) {
  for (Index i = 0; i < count; ++i) write_row(rows.dtype, from + i * padded, rows.dim, rows.row(begin + i, head));
}

}  // namespace hsattn::cpu
