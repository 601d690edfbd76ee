// The kernels for amx: bfloat16 only, with everything but products of tokens in AVX-512. The flags are in
// hsattn/CMakeLists.txt.
#define HSATTN_SIMD_AVX512
#define HSATTN_SIMD_NAMESPACE amx
#include "hsattn/kernels/cpu/tiles-inl.h"
