#include "lm/data/copying.h"

#include <algorithm>

#include "lm/data/dice.h"

namespace hsattn::lm {

void write_copying_window(std::span<std::int64_t> window, Index vocabulary, std::uint64_t seed) {
  Dice dice(seed);
  const auto size = static_cast<Index>(window.size());
  const auto passage =
      static_cast<std::size_t>(dice.between(std::max<Index>(size / 8, 1), std::max<Index>(3 * size / 8, 1)));
  for (std::size_t i = 0; i < window.size(); ++i)
    window[i] = i < passage ? dice.below(vocabulary) : window[i - passage];
}

}  // namespace hsattn::lm
