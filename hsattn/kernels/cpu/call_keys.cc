#include "hsattn/kernels/cpu/call_keys.h"

#include <algorithm>
#include <utility>

#include "hsattn/base/math.h"

namespace hsattn::cpu {
namespace {

// Whether cells of kQuad queries would round units `kDear` times as often as there are units.
bool pays(const PackedHead& head, const PlanShape& shape, const SearchBudgets& search) {
  constexpr Index kDear = 4;  // rounding a unit here is that much slower than with vectors
  const Index candidates = std::min(head.units, search.candidates * ceil_div(shape.node, kUnit));
  return shape.queries / kQuad * candidates > kDear * head.units;
}

}  // namespace

CallKeys::CallKeys(std::span<PackedHead> heads, const PlanShape& shape, const SearchBudgets& search,
                   Executor& executor) {
  constexpr Index kUnitsOfTask = 256;
  if (shape.slots() == 0 || !search.rescore) return;
  std::vector<std::pair<Index, Index>> tasks;  // head, first unit
  for (std::size_t i = 0; i < heads.size(); ++i) {
    PackedHead& head = heads[i];
    if (!head.keys_int8.empty() || !pays(head, shape, search)) continue;
    const char* what = "attend: rounded keys of a call";
    bytes_.push_back(allocate_buffer<std::uint8_t>(head.units * kUnit * head.padded_dim, what));
    scales_.push_back(allocate_buffer<float>(head.units * kUnit, what));
    head.keys_int8 = {bytes_.back().get(), kUnit * head.padded_dim};
    head.key_scales = {scales_.back().get(), kUnit};
    for (Index first = 0; first < head.units; first += kUnitsOfTask) tasks.emplace_back(i, first);
  }
  if (tasks.empty()) return;
  executor.run(static_cast<Index>(tasks.size()), [&](Index task) {
    const auto [i, first] = tasks[static_cast<std::size_t>(task)];
    const PackedHead& head = heads[static_cast<std::size_t>(i)];
    for (Index unit = first; unit < std::min(head.units, first + kUnitsOfTask); ++unit) {
      round_packed_keys(head, unit, head.keys_int8[unit], head.key_scales[unit]);
    }
  });
}

}  // namespace hsattn::cpu
