// Everything that is compiled once per instruction set.
#include "hsattn/kernels/cpu/backward-inl.h"
#include "hsattn/kernels/cpu/forward-inl.h"
#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/select-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

#if defined(HSATTN_SIMD_AVX2)
const Kernels kKernels{kStep, false, select_queries, forward_tile<Floats>, backward_tile<Floats>, nullptr, nullptr};
#else
const Kernels kKernels{kStep,
                       false,
                       select_queries,
                       forward_tile<Floats>,
                       backward_tile<Floats>,
                       forward_tile<Pairs>,
                       backward_tile<Pairs>};
#endif

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
