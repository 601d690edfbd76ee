// Windows that teach to copy: a passage of the promised length, again and again, always the same for a seed.
#include "lm/data/copying.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace hsattn::lm {
namespace {

std::vector<std::int64_t> window_of(Index size, Index vocabulary, std::uint64_t seed) {
  std::vector<std::int64_t> window(static_cast<std::size_t>(size), -1);
  write_copying_window(window, vocabulary, seed);
  return window;
}

// The smallest distance at which every token is said again.
Index period_of(const std::vector<std::int64_t>& window) {
  for (std::size_t period = 1; period < window.size(); ++period) {
    if (std::equal(window.begin() + static_cast<std::ptrdiff_t>(period), window.end(), window.begin()))
      return static_cast<Index>(period);
  }
  return static_cast<Index>(window.size());
}

TEST(CopyingWindow, SaysAPassageAgainAndAgain) {
  constexpr Index kSize = 256, kVocabulary = 1000;
  std::set<Index> periods;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    const auto window = window_of(kSize, kVocabulary, seed);
    EXPECT_GE(*std::min_element(window.begin(), window.end()), 0);
    EXPECT_LT(*std::max_element(window.begin(), window.end()), kVocabulary);
    const Index period = period_of(window);
    EXPECT_GE(period, kSize / 8);
    EXPECT_LE(period, 3 * kSize / 8);
    periods.insert(period);
  }
  EXPECT_GT(periods.size(), 30u);
}

TEST(CopyingWindow, IsDrawnFromItsSeed) {
  EXPECT_EQ(window_of(64, 256, 5), window_of(64, 256, 5));
  EXPECT_NE(window_of(64, 256, 5), window_of(64, 256, 6));
  EXPECT_EQ(window_of(1, 256, 5).size(), 1u);
  EXPECT_EQ(window_of(2, 2, 5)[0], window_of(2, 2, 5)[1]);  // a passage of one token
}

}  // namespace
}  // namespace hsattn::lm
