// Random choices that are the same with every standard library.
#pragma once

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

// Not std::uniform_int_distribution, whose numbers differ between libraries.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  /// From 0 to `end` - 1.
  Index below(Index end) { return static_cast<Index>(engine_() % static_cast<std::uint64_t>(end)); }
  /// From `first` to `last`, both possible.
  Index between(Index first, Index last) { return first + below(last - first + 1); }
  char letter(const std::string& letters) {
    return letters[static_cast<std::size_t>(below(static_cast<Index>(letters.size())))];
  }
  std::string word(Index size, const std::string& letters) {
    std::string text;
    for (Index i = 0; i < size; ++i) text += letter(letters);
    return text;
  }
  template <class T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t i = values.size(); i > 1; --i)
      std::swap(values[i - 1], values[static_cast<std::size_t>(below(static_cast<Index>(i)))]);
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace hsattn::lm
