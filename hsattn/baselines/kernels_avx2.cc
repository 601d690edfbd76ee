// The kernels for avx2; the flags are in hsattn/CMakeLists.txt.
#define HSATTN_SIMD_AVX2
#define HSATTN_SIMD_NAMESPACE avx2
#include "hsattn/baselines/all-inl.h"
