#include "lm/data/batches.h"

#include <gtest/gtest.h>

#include <set>

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

TEST(Permuted, IsAPermutationOfAnySize) {
  for (const Index size : {1, 2, 3, 4, 5, 16, 17, 100, 1000}) {
    std::set<Index> seen;
    for (Index i = 0; i < size; ++i) {
      const Index j = permuted(i, size, 7);
      EXPECT_GE(j, 0);
      EXPECT_LT(j, size);
      seen.insert(j);
    }
    EXPECT_EQ(static_cast<Index>(seen.size()), size);
  }
}

TEST(Permuted, DependsOnTheKey) {
  Index same = 0;
  for (Index i = 0; i < 1000; ++i) same += permuted(i, 1000, 1) == permuted(i, 1000, 2);
  EXPECT_LT(same, 20);
}

TEST(BatchOrder, ReadsEachWindowOnceInAnEpochAndNeverPastTheEnd) {
  for (const Index tokens : {11, 12, 25, 101, 1234}) {
    constexpr Index kContext = 10;
    const BatchOrder order(tokens, kContext, 3);
    for (Index epoch = 0; epoch < 5; ++epoch) {
      std::set<Index> windows;
      for (const Index start : order.windows(epoch * order.windows_per_epoch(), order.windows_per_epoch())) {
        EXPECT_GE(start, 0);
        EXPECT_LE(start + kContext + 1, tokens);
        windows.insert(start / kContext);
      }
      EXPECT_EQ(static_cast<Index>(windows.size()), order.windows_per_epoch()) << tokens << " tokens, epoch " << epoch;
    }
  }
}

TEST(BatchOrder, IsAFunctionOfSeedAndNumberAlone) {
  const BatchOrder a(100000, 64, 5), b(100000, 64, 5), other(100000, 64, 6);
  std::vector<Index> in_parts = a.windows(0, 7);
  for (const Index start : a.windows(7, 93)) in_parts.push_back(start);
  EXPECT_EQ(in_parts, b.windows(0, 100));
  EXPECT_NE(in_parts, other.windows(0, 100));
}

TEST(BatchOrder, RefusesATextThatIsTooShort) {
  EXPECT_THROW(BatchOrder(10, 10, 1), InvalidArgument);
  EXPECT_NO_THROW(BatchOrder(11, 10, 1));
}

TEST(EvenWindows, SpreadOverTheTextWithoutOverlap) {
  EXPECT_EQ(even_windows(41, 10, 0), (std::vector<Index>{0, 10, 20, 30}));
  EXPECT_EQ(even_windows(40, 10, 0), (std::vector<Index>{0, 10, 20}));
  EXPECT_EQ(even_windows(41, 10, 2), (std::vector<Index>{0, 20}));
  EXPECT_THROW(even_windows(10, 10, 0), InvalidArgument);
}

}  // namespace
}  // namespace hsattn::lm
