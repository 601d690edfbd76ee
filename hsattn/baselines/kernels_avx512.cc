// The kernels for avx512; the flags are in hsattn/CMakeLists.txt.
#define HSATTN_SIMD_AVX512
#define HSATTN_SIMD_NAMESPACE avx512
#include "hsattn/baselines/all-inl.h"
