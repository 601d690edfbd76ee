// What a run ran on. No torch in this header.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// Threads for `option` (0: all processors that this process may use); sets torch's pool to it.
Index use_threads(Index option);

/// True if this processor multiplies bf16 by itself; torch's bf16 is unusably slow where it does not.
bool has_fast_bf16();

/// "float32" or "bf16" for auto, float32 or bf16. Throws Unsupported for bf16 on a processor without the instructions.
std::string resolve_precision(const std::string& option);

/// Largest resident memory of this process so far, in MiB, as the kernel counts it.
double peak_memory_mib();
/// Resident memory of this process now, in MiB.
double resident_memory_mib();
/// Peak memory counts from now on; false if the kernel does not allow it.
bool forget_peak_memory();
/// Memory of the machine and what is available, in MiB; 0 if unknown.
double total_memory_mib();
double available_memory_mib();

std::string torch_version();
/// Commit that this program was built from; empty if it was not built from a git checkout.
std::string build_commit();

/// Processor, instruction set, torch, threads, memory, commit, compiler.
nlohmann::ordered_json describe_environment(Index threads);

}  // namespace hsattn::lm
