// Which instruction sets this processor has, and which kernel build is used.
#pragma once

#include <string>
#include <vector>

namespace hsattn {

/// Builds of the one kernel source. kPortable has 16 lanes and runs everywhere. The two with BFloat16 take bfloat16
/// tensors by products of pairs that are added up in float32, and the two with Amx by such products of whole tiles; the
/// others convert them to float32 while packing. kPortableBFloat16 and kPortableAmx imitate the processor's products,
/// so that their kernels are tested anywhere; they are never chosen by themselves.
enum class Isa { kPortableAmx, kPortableBFloat16, kPortable, kAvx2, kAvx512, kAvx512BFloat16, kAmx };

const char* name_of(Isa isa);

/// Whether kernels of `isa` multiply pairs of bfloat16, and the instruction set that its other types are computed with.
bool has_pair_products(Isa isa);
Isa without_pair_products(Isa isa);

/// The instruction sets that this build contains and this processor has, slowest first. (kAvx512BFloat16 is behind
/// kAvx512 or before it, as the processor's products of pairs are faster than those of floats or not.)
const std::vector<Isa>& available_isas();

/// The build that kernels use: the best available one, or the one named by the environment variable HSATTN_ISA
/// (portable_amx | portable_bf16 | portable | avx2 | avx512 | avx512_bf16 | amx), read once. Throws InvalidArgument for
/// an unknown name, Unsupported if this processor lacks it.
Isa selected_isa();

/// The processor's own name, such as "AMD EPYC ...", and the vector extensions that matter here; for reports.
std::string describe_processor();

}  // namespace hsattn
