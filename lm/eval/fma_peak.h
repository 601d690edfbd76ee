// What a core can do at most: fused multiply-adds on registers alone.
#pragma once

namespace hsattn::lm {

/// GFLOP/s of one thread, measured in about 0.1 s with the widest vectors that the processor has; 0 if unknown.
struct FmaPeak {
  double float32 = 0;
  double bfloat16 = 0;  ///< products of bfloat16 pairs, added in float32, by AMX if there; 0 without AVX512-BF16
};

FmaPeak measure_fma_peak();

}  // namespace hsattn::lm
