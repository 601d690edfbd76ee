// The kernels for portable; the flags are in hsattn/CMakeLists.txt.
#define HSATTN_SIMD_NAMESPACE portable
#include "hsattn/baselines/all-inl.h"
