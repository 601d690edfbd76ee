// Sampling, text that is shown as it comes, and what is done to rows of activations.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>

#include "hsattn/base/error.h"
#include "lm/pretrained/row_kernels.h"
#include "lm/pretrained/sampling.h"
#include "lm/pretrained/text_stream.h"

namespace hsattn::lm {
namespace {

TEST(TextStream, ShowsWholeCharactersAndReplacesWhatIsNone) {
  struct Case {
    const char* name;
    std::vector<std::string> pushed, shown;
    std::string at_end;
  };
  const std::string replacement = "\xef\xbf\xbd";
  const Case cases[] = {
      {"letters", {"ab", "c"}, {"ab", "c"}, ""},
      {"a character in three tokens", {"\xe4", "\xb8", "\x96!"}, {"", "", "\xe4\xb8\x96!"}, ""},
      {"an unfinished one at the end", {"a\xf0\x9f"}, {"a"}, replacement},
      {"a broken one is one", {"\xe4\xb8", "x"}, {"", replacement + "x"}, ""},
      {"bytes that begin nothing are one each", {"\x80\xff"}, {replacement + replacement}, ""},
      {"overlong", {"\xc0\xaf"}, {replacement + replacement}, ""},
      {"half a surrogate", {"\xed\xa0\x80"}, {replacement + replacement + replacement}, ""},
      {"above U+10FFFF", {"\xf4\x90\x80\x80"}, {replacement + replacement + replacement + replacement}, ""}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    TextStream stream({});
    std::vector<std::string> shown;
    for (const std::string& bytes : c.pushed) shown.push_back(stream.push(bytes));
    EXPECT_EQ(shown, c.shown);
    EXPECT_EQ(stream.finish(), c.at_end);
  }
}

TEST(TextStream, HoldsBackWhatMayBecomeAStopWord) {
  TextStream stream({"", "END", "\n\nUser:"});
  EXPECT_EQ(stream.push("a E"), "a ");
  EXPECT_EQ(stream.push("N"), "");
  EXPECT_EQ(stream.push("E"), "EN");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.push("ND and more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("x"), "");
  EXPECT_EQ(stream.finish(), "");
  TextStream other({"END"});
  EXPECT_EQ(other.push("b EN"), "b ");
  EXPECT_EQ(other.finish(), "EN");
}

std::map<Token, double> shares(const SamplingOptions& options, const std::vector<float>& logits) {
  constexpr int kDraws = 20000;
  Sampler sampler(options);
  std::map<Token, double> shares;
  for (int i = 0; i < kDraws; ++i) {
    std::vector<float> row = logits;
    shares[sampler.next(row, {})] += 1.0 / kDraws;
  }
  return shares;
}

TEST(Sampler, DrawsByTheWeightsThatAreLeft) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  struct Case {
    SamplingOptions options;
    std::map<Token, double> shares;
  };
  const Case cases[] = {
      {{.temperature = 1, .seed = 1}, {{0, 0.1}, {1, 0.4}, {2, 0.2}, {3, 0.3}}},
      {{.temperature = 0.5, .seed = 2}, {{0, 0.01 / 0.3}, {1, 0.16 / 0.3}, {2, 0.04 / 0.3}, {3, 0.09 / 0.3}}},
      {{.temperature = 1, .top_p = 0.65, .seed = 3}, {{1, 0.4 / 0.7}, {3, 0.3 / 0.7}}},
      {{.temperature = 1, .top_p = 1e-9, .seed = 4}, {{1, 1}}},
      {{.temperature = 1, .top_k = 3, .seed = 5}, {{1, 0.4 / 0.9}, {2, 0.2 / 0.9}, {3, 0.3 / 0.9}}},
      {{.temperature = 1, .top_p = 0.7, .top_k = 3, .seed = 6}, {{1, 0.4 / 0.7}, {3, 0.3 / 0.7}}},
      {{.temperature = 0}, {{1, 1}}}};
  for (const Case& c : cases) {
    const auto found = shares(c.options, logits);
    ASSERT_EQ(found.size(), c.shares.size()) << "seed " << c.options.seed;
    // Five standard deviations of 20000 draws.
    for (const auto& [token, share] : c.shares) EXPECT_NEAR(found.at(token), share, 0.018) << token;
  }
}

TEST(Sampler, PenalisesWhatIsThereAndBreaksTiesDownwards) {
  Sampler greedy({.repetition_penalty = 2});
  std::vector<float> row = {3, 2, -1, -1.5};
  EXPECT_EQ(greedy.next(row, std::vector<Token>{0, 0, 2}), 1u);
  EXPECT_EQ(row, (std::vector<float>{1.5, 2, -2, -1.5}));
  std::vector<float> equal = {1, 1, 1};
  EXPECT_EQ(Sampler({}).next(equal, {}), 0u);
  EXPECT_EQ(Sampler({.temperature = 1, .top_k = 1}).next(equal, {}), 0u);
}

TEST(Sampler, RefusesOptionsByName) {
  for (const auto& [options, name] : {std::pair{SamplingOptions{.temperature = -1}, "temperature is -1"},
                                      std::pair{SamplingOptions{.top_p = 0}, "top_p is 0"},
                                      std::pair{SamplingOptions{.top_k = -2}, "sample_top_k is -2"},
                                      std::pair{SamplingOptions{.repetition_penalty = 0}, "repetition_penalty is 0"}}) {
    try {
      check_sampling_options(options);
      ADD_FAILURE() << name;
    } catch (const InvalidArgument& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with(name)) << error.what();
    }
  }
}

template <class T>
std::vector<T> normal_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<T> x(count);
  for (T& value : x) value = static_cast<T>(normal(random));
  return x;
}

TEST(RowKernels, ProductsAreThoseInDoubleRoundedOnce) {
  for (const Index columns : {1, 31, 32, 33, 100, 576, 1536}) {
    const auto matrix = normal_values<BFloat16>(static_cast<std::size_t>(5 * columns), 1);
    const auto x = normal_values<float>(static_cast<std::size_t>(columns), 2);
    std::vector<BFloat16> y(5);
    vector_product(matrix.data(), columns, x.data(), 1, 4, y.data());
    EXPECT_EQ(y[0].bits | y[4].bits, 0) << "rows outside were written";
    for (Index r = 1; r < 4; ++r) {
      double sum = 0, size = 0;
      for (Index i = 0; i < columns; ++i) {
        const double term = double{matrix[static_cast<std::size_t>(r * columns + i)]} * x[static_cast<std::size_t>(i)];
        sum += term, size += std::abs(term);
      }
      // Half a unit in the last of 8 bits, and float32's own rounding.
      EXPECT_NEAR(double{y[static_cast<std::size_t>(r)]}, sum, std::abs(sum) / 256 + 1e-6 * size) << columns;
    }
  }
}

// Half a unit in the last place of T, and what float32 loses on the way.
template <class T>
double tolerance(double right, double size) {
  return (sizeof(T) == 2 ? std::abs(right) / 256 : 0) + 1e-6 * size;
}

template <class T>
class RowKernelsOf : public testing::Test {};
using RowTypes = testing::Types<float, BFloat16>;
TYPED_TEST_SUITE(RowKernelsOf, RowTypes);

TYPED_TEST(RowKernelsOf, NormalizesRowsAlsoInPlace) {
  for (const std::size_t width : {1, 24, 33, 64, 576}) {
    const auto x = normal_values<TypeParam>(3 * width, 3), weight = normal_values<TypeParam>(width, 4);
    std::vector<TypeParam> out(3 * width), in_place = x;
    normalize_rows(x.data(), weight.data(), 1e-5, 3, static_cast<Index>(width), out.data());
    normalize_rows(in_place.data(), weight.data(), 1e-5, 3, static_cast<Index>(width), in_place.data());
    for (std::size_t i = 0; i < 3 * width; ++i) {
      double squares = 0;
      for (std::size_t j = i / width * width, end = j + width; j < end; ++j) squares += std::pow(double{x[j]}, 2);
      const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
      const double right = double{x[i]} * scale * double{weight[i % width]};
      ASSERT_NEAR(double{out[i]}, right, tolerance<TypeParam>(right, std::abs(right))) << width << " " << i;
      ASSERT_EQ(double{in_place[i]}, double{out[i]});
    }
  }
}

TYPED_TEST(RowKernelsOf, RotatesPairsOfEachHead) {
  for (const std::size_t dim : {2, 24, 64, 80, 128}) {
    const auto x = normal_values<TypeParam>(3 * dim, 5);
    std::vector<TypeParam> out = x;
    std::vector<float> cos(dim / 2), sin(dim / 2);
    for (std::size_t i = 0; i < dim / 2; ++i) {
      cos[i] = std::cos(0.7F * static_cast<float>(i + 1)), sin[i] = std::sin(0.7F * static_cast<float>(i + 1));
    }
    rotate_rows(out.data(), cos.data(), sin.data(), 3, static_cast<Index>(dim));
    for (std::size_t i = 0; i < 3 * dim; ++i) {
      const std::size_t at = i % dim, pair = at % (dim / 2);
      const double other = at < dim / 2 ? -double{x[i + dim / 2]} : double{x[i - dim / 2]};
      const double right = double{x[i]} * double{cos[pair]} + other * double{sin[pair]};
      ASSERT_NEAR(double{out[i]}, right, tolerance<TypeParam>(right, std::abs(double{x[i]}) + std::abs(other)))
          << dim << " " << i;
    }
  }
}

TYPED_TEST(RowKernelsOf, GatesByTheLogisticFunctionOfAnyNumber) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (const std::size_t inner : {1, 15, 48, 1536}) {
    auto x = normal_values<TypeParam>(4 * inner, 6);
    std::vector<TypeParam> out(2 * inner);
    const float extremes[] = {0, 20, -20, 86, -86, 3000, -3000, kInf, kNan};
    for (std::size_t i = 0; i < std::min(inner, std::size(extremes)); ++i) x[i] = static_cast<TypeParam>(extremes[i]);
    gate_rows(x.data(), 2, static_cast<Index>(inner), out.data());
    for (std::size_t i = 0; i < 2 * inner; ++i) {
      const std::size_t at = i / inner * 2 * inner + i % inner;
      const double gate{x[at]}, right = gate / (1 + std::exp(-gate)) * double{x[at + inner]};
      const double found{out[i]};
      ASSERT_EQ(std::isnan(found), std::isnan(right)) << gate;
      if (std::isinf(right) || std::isnan(right)) continue;
      ASSERT_NEAR(found, right, tolerance<TypeParam>(right, std::abs(right)) + 1e-30) << gate;
    }
  }
}

}  // namespace
}  // namespace hsattn::lm
