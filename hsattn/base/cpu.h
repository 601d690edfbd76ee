// Which instruction sets this processor has, and which kernel build is used.
#pragma once

#include <string>
#include <vector>

namespace hsattn {

/// Builds of the one kernel source. kPortable has 16 lanes and runs everywhere.
enum class Isa { kPortable, kAvx2, kAvx512 };

const char* name_of(Isa isa);

/// The instruction sets that this build contains and this processor has, slowest first.
const std::vector<Isa>& available_isas();

/// The build that kernels use: the best available one, or the one named by the environment variable HSATTN_ISA
/// (portable | avx2 | avx512), read once. Throws InvalidArgument for an unknown name, Unsupported if this processor
/// lacks it.
Isa selected_isa();

/// The processor's own name, such as "AMD EPYC ...", and the vector extensions that matter here; for reports.
std::string describe_processor();

}  // namespace hsattn
