// Windows that teach to copy. No torch here.
#pragma once

#include <cstdint>
#include <span>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// Fills `window` with random tokens of a vocabulary, a passage of an eighth to three eighths of the window said again
/// and again. Nothing but copying foretells a token, so a model learns it without the way round by word statistics.
/// The same `seed` draws the same window.
void write_copying_window(std::span<std::int64_t> window, Index vocabulary, std::uint64_t seed);

}  // namespace hsattn::lm
