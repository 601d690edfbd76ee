// The kernels for portable_amx, which imitate tile registers; no vector flags.
#define HSATTN_SIMD_NAMESPACE portable_amx
#define HSATTN_BYTE_TILES true
#include "hsattn/kernels/cpu/tiles-inl.h"
