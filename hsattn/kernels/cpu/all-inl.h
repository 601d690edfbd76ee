// Everything that is compiled once per instruction set.
#include "hsattn/kernels/cpu/backward-inl.h"
#include "hsattn/kernels/cpu/forward-inl.h"
#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/select-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

static void select_queries(const HeadJob& job, Index first, Index count, std::int32_t* lists, Scratch& s) {
  load_tile_rows(job.q, job.q_head_stride, job.group, first, count, job.scale, job.packed->padded_dim, s.q.get());
  select_tile(job, first, count, lists, s);
}

const Kernels kKernels{select_queries, forward_tile, backward_tile};

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
