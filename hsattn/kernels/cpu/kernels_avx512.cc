// The kernels for avx512; the flags are in hsattn/CMakeLists.txt.
#include "hsattn/base/cpu.h"

#define HSATTN_SIMD_AVX512
#define HSATTN_SIMD_NAMESPACE avx512
#define HSATTN_BYTE_TILES (selected_isa() == Isa::kAmx)
#include "hsattn/kernels/cpu/all-inl.h"
