// Which instruction sets this processor has, and which kernel build is used.
#pragma once

#include <string>
#include <vector>

namespace hsattn {

/// Builds of the one kernel source. kPortable has 16 lanes and runs everywhere. The two with BFloat16 take bfloat16
/// tensors by products of pairs that are added up in float32; the others convert them to float32 while packing.
/// kPortableBFloat16 imitates those products, so that their kernels are tested on any processor; it is never chosen by
/// itself.
enum class Isa { kPortableBFloat16, kPortable, kAvx2, kAvx512, kAvx512BFloat16 };

const char* name_of(Isa isa);

/// The instruction sets that this build contains and this processor has, slowest first. (kAvx512BFloat16 is behind
/// kAvx512 or before it, as the processor's products of pairs are faster than those of floats or not.)
const std::vector<Isa>& available_isas();

/// The build that kernels use: the best available one, or the one named by the environment variable HSATTN_ISA
/// (portable_bf16 | portable | avx2 | avx512 | avx512_bf16), read once. Throws InvalidArgument for an unknown name,
/// Unsupported if this processor lacks it.
Isa selected_isa();

/// The processor's own name, such as "AMD EPYC ...", and the vector extensions that matter here; for reports.
std::string describe_processor();

}  // namespace hsattn
