// Everything that is compiled once per instruction set.
#include "hsattn/baselines/linformer-inl.h"
#include "hsattn/baselines/scan_backward-inl.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

const LinformerKernels kLinformerKernels{linformer_forward, linformer_backward, projections_backward};
const ScanKernels kScanKernels{scan_forward, scan_backward};

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
