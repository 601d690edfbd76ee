// The half-precision types: every value of them, and roundings that are known.
#include "hsattn/base/elements.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace hsattn {
namespace {

template <class T>
T of_bits(unsigned bits) {
  T x;
  x.bits = static_cast<std::uint16_t>(bits);
  return x;
}

// Digits behind the leading one, exponent of the smallest normal number.
template <class T>
void expect_every_value_survives(int digits, int smallest) {
  const unsigned infinity = ((1U << (15 - digits)) - 1U) << digits;
  for (unsigned bits = 0; bits < 0x10000U; ++bits) {
    const float x = static_cast<float>(of_bits<T>(bits));
    const unsigned magnitude = bits & 0x7fffU, fraction = magnitude & ((1U << digits) - 1U);
    if (magnitude > infinity) {
      ASSERT_TRUE(std::isnan(x) && std::isnan(static_cast<float>(T(x)))) << bits;
      continue;
    }
    const int exponent = static_cast<int>(magnitude >> digits);
    const double normal = std::ldexp(1.0 + std::ldexp(fraction, -digits), exponent - 1 + smallest);
    const double right = exponent == 0 ? std::ldexp(fraction, smallest - digits) : normal;
    const double sign = bits >= 0x8000U ? -1 : 1;
    ASSERT_EQ(x, magnitude == infinity ? sign * std::numeric_limits<double>::infinity() : sign * right) << bits;
    ASSERT_EQ(T(x).bits, bits);
  }
}

TEST(Elements, EveryValueOfAHalfSurvives) {
  expect_every_value_survives<BFloat16>(7, -126);
  expect_every_value_survives<Float16>(10, -14);
}

// Between two neighbours: below, at and above the middle; the middle goes to the even one.
template <class T>
void expect_nearest() {
  const float infinity = std::numeric_limits<float>::infinity();
  for (unsigned bits = 0; of_bits<T>(bits + 1).bits < T(infinity).bits; ++bits) {
    const float low = static_cast<float>(of_bits<T>(bits)), high = static_cast<float>(of_bits<T>(bits + 1));
    const float middle = low + (high - low) / 2;
    for (const float sign : {1.0F, -1.0F}) {
      const unsigned top = sign < 0 ? 0x8000U : 0U;
      ASSERT_EQ(T(sign * middle).bits, top | (bits + (bits & 1U))) << bits;
      ASSERT_EQ(T(sign * std::nextafter(middle, 0.0F)).bits, top | bits) << bits;
      ASSERT_EQ(T(sign * std::nextafter(middle, infinity)).bits, top | (bits + 1)) << bits;
    }
  }
}

TEST(Elements, FloatsGoToTheNearestHalf) {
  expect_nearest<BFloat16>();
  expect_nearest<Float16>();
  EXPECT_EQ(Float16(65519.0F).bits, 0x7bffU);
  EXPECT_EQ(Float16(65520.0F).bits, 0x7c00U);
  EXPECT_EQ(BFloat16(std::numeric_limits<float>::max()).bits, 0x7f80U);
}

}  // namespace
}  // namespace hsattn
