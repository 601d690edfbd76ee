#include "hsattn/base/cpu.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "hsattn/base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace hsattn {
namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
bool is_intel() { return __builtin_cpu_is("intel"); }

// Linux saves tile registers only for a process that has asked for it.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequestState = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestState, kTileData) == 0;
#else
  return false;
#endif
}

bool has_amx() {
  constexpr unsigned kBFloat16 = 1U << 22, kTiles = 1U << 24, kBytes = 1U << 25, kAll = kBFloat16 | kTiles | kBytes;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx512_bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAll) == kAll && may_use_tiles();
}
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_avx512_bf16() { return false; }
bool is_intel() { return false; }
bool has_amx() { return false; }
#endif

constexpr Isa kAll[] = {Isa::kPortableAmx, Isa::kPortableBFloat16, Isa::kPortable, Isa::kAvx2,
                        Isa::kAvx512,      Isa::kAvx512BFloat16,   Isa::kAmx};

Isa choose_isa() {
  const char* forced = std::getenv("HSATTN_ISA");
  if (forced == nullptr || *forced == '\0') return available_isas().back();
  for (const Isa isa : kAll) {
    if (std::string(forced) != name_of(isa)) continue;
    const auto& have = available_isas();
    if (std::find(have.begin(), have.end(), isa) == have.end()) {
      throw Unsupported(concat("HSATTN_ISA is ", forced,
                               "; this processor lacks it or may not use it (best here: ", name_of(have.back()), ")"));
    }
    return isa;
  }
  throw InvalidArgument(
      concat("HSATTN_ISA is '", forced,
             "'; it must be portable, portable_bf16, portable_amx, avx2, avx512, avx512_bf16 or amx"));
}

}  // namespace

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::kPortableAmx:
      return "portable_amx";
    case Isa::kPortableBFloat16:
      return "portable_bf16";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512BFloat16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
    default:
      return "portable";
  }
}

bool has_pair_products(Isa isa) { return without_pair_products(isa) != isa; }

Isa without_pair_products(Isa isa) {
  switch (isa) {
    case Isa::kPortableAmx:
    case Isa::kPortableBFloat16:
      return Isa::kPortable;
    case Isa::kAvx512BFloat16:
    case Isa::kAmx:
      return Isa::kAvx512;
    default:
      return isa;
  }
}

const std::vector<Isa>& available_isas() {
  static const std::vector<Isa> isas = [] {
    std::vector<Isa> found{Isa::kPortableAmx, Isa::kPortableBFloat16, Isa::kPortable};
    if (has_avx2()) found.push_back(Isa::kAvx2);
    // Of products of pairs a Xeon with AMX does half as many a second as of float32 (121 to 243 GFLOP/s).
    const bool slow_pairs = is_intel();
    if (has_avx512_bf16() && slow_pairs) found.push_back(Isa::kAvx512BFloat16);
    if (has_avx512()) found.push_back(Isa::kAvx512);
    if (has_avx512_bf16() && !slow_pairs) found.push_back(Isa::kAvx512BFloat16);
    if (has_amx()) found.push_back(Isa::kAmx);
    return found;
  }();
  return isas;
}

Isa selected_isa() {
  static const Isa isa = choose_isa();
  return isa;
}

std::string describe_processor() {
  std::string model = "unknown processor", flags, line;
  for (std::ifstream info("/proc/cpuinfo"); std::getline(info, line) && (model[0] == 'u' || flags.empty());) {
    const auto colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (line.rfind("model name", 0) == 0) model = line.substr(colon + 2);
    if (line.rfind("flags", 0) == 0) flags = line.substr(colon + 1) + " ";
  }
  std::string extensions;
  for (const char* flag : {"avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}) {
    if (flags.find(concat(" ", flag, " ")) != std::string::npos) extensions += concat(" ", flag);
  }
  return concat(model, " (", extensions.empty() ? "no vector extensions known here" : extensions.substr(1), ")");
}

}  // namespace hsattn
