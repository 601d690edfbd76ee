#include "lm/train/environment.h"

#include <sched.h>
#include <torch/version.h>

#include <fstream>
#include <thread>

#include "hsattn/base/cpu.h"
#include "hsattn/base/error.h"
#include "lm/model/torch.h"

namespace hsattn::lm {
namespace {

// A line "name:   12345 kB" of a file of /proc, in MiB; 0 if absent.
double proc_mib(const char* file, const std::string& name) {
  std::ifstream lines(file);
  for (std::string word; lines >> word;) {
    double kib = 0;
    if (word == name + ":" && lines >> kib) return kib / 1024;
  }
  return 0;
}

}  // namespace

Index use_threads(Index option) {
  Index threads = option;
  if (threads == 0) {
    cpu_set_t set;
    threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                          : static_cast<Index>(std::thread::hardware_concurrency());
    threads = std::max<Index>(threads, 1);
  }
  at::set_num_threads(static_cast<int>(threads));
  return threads;
}

bool has_fast_bf16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16") != 0;
#else
  return false;
#endif
}

std::string resolve_precision(const std::string& option) {
  if (option == "auto") return has_fast_bf16() ? "bf16" : "float32";
  if (option == "bf16" && !has_fast_bf16()) {
    throw Unsupported("precision is bf16, but this processor has no bf16 instructions; float32 or auto are right");
  }
  return option;
}

double peak_memory_mib() { return proc_mib("/proc/self/status", "VmHWM"); }
double resident_memory_mib() { return proc_mib("/proc/self/status", "VmRSS"); }
double total_memory_mib() { return proc_mib("/proc/meminfo", "MemTotal"); }
double available_memory_mib() { return proc_mib("/proc/meminfo", "MemAvailable"); }

bool forget_peak_memory() {
  std::ofstream file("/proc/self/clear_refs");
  file << 5 << std::flush;  // proc(5): resets VmHWM
  return file.good();
}

std::string torch_version() { return TORCH_VERSION; }

nlohmann::ordered_json describe_environment(Index threads) {
  return {{"processor", describe_processor()},
          {"isa", name_of(selected_isa())},
          {"bf16", has_fast_bf16()},
          {"torch", torch_version()},
          {"threads", threads},
          {"memory_mib", total_memory_mib()},
          {"compiler", __VERSION__},
          {"commit", build_commit()}};
}

}  // namespace hsattn::lm
