// One fuzzing program for each entry point; HSATTN_FUZZ_TARGET is its name.
#include <cstddef>
#include <cstdint>

#include "entry_points.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace hsattn::lm::fuzz;
  static const EntryPoint& entry = entry_point(HSATTN_FUZZ_TARGET);
  entry.read({reinterpret_cast<const char*>(data), size});
  return 0;
}
