// The kernels for pairs of bfloat16 in tile registers, compiled once for the processor's and once for imitated ones.
#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/select-inl.h"
#include "hsattn/kernels/cpu/strip_backward-inl.h"
#include "hsattn/kernels/cpu/strip_forward-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

const Kernels kKernels{kStep, true, select_queries, nullptr, nullptr, forward_tile_by_strips, backward_tile_by_strips};

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
