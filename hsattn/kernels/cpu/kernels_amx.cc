// The kernels for amx: bfloat16 only, with everything but products of tokens in AVX-512. The flags are in
// hsattn/CMakeLists.txt.
#define HSATTN_SIMD_AVX512
#define HSATTN_SIMD_NAMESPACE amx
#define HSATTN_BYTE_TILES true
#include "hsattn/kernels/cpu/tiles-inl.h"
