// Budgets by head, the search for the smallest, and the pairing of what was measured.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/eval/paired.h"
#include "lm/pretrained/compare.h"
#include "lm/pretrained/convert.h"
#include "lm/pretrained/measurements.h"
#include "temporary_folder.h"

namespace hsattn::lm {
namespace {

double average(const std::vector<Index>& values) {
  return static_cast<double>(std::accumulate(values.begin(), values.end(), Index{0})) /
         static_cast<double>(values.size());
}

// Errors that fall as the budget grows: `weight` squared over it.
std::vector<BudgetCurve> curves_of(const std::vector<double>& weights) {
  std::vector<BudgetCurve> curves;
  for (const double weight : weights) {
    BudgetCurve& curve = curves.emplace_back();
    for (const Index top_k : {64, 256, 1024}) {
      curve.top_k.push_back(top_k);
      curve.errors.push_back(weight * weight / static_cast<double>(top_k));
    }
  }
  return curves;
}

TEST(Allocation, ATokenMoreIsWorthTheSameToEachHead) {
  struct Case {
    const char* name;
    std::vector<double> weights;
    double average;
    BudgetRange range;
    std::vector<Index> right;
  };
  // With these errors the best budgets are in proportion to the weights.
  const Case cases[] = {{"in proportion", {1, 2, 3}, 202, {8, 2048, 8}, {104, 200, 304}},
                        {"equal weights", {1, 1, 1}, 100, {8, 2048, 4}, {100, 100, 100}},
                        {"the least is kept", {0, 1}, 100, {64, 2048, 8}, {64, 136}},
                        {"so is the most", {1, 100}, 600, {64, 1024, 8}, {176, 1024}},
                        {"no less than the least", {1, 9}, 1, {64, 2048, 8}, {64, 64}},
                        {"no more than the most", {1e-2, 1}, 1e9, {64, 512, 8}, {512, 512}},
                        {"ends are blocks", {1, 1}, 1, {60, 100, 16}, {64, 64}},
                        {"nothing costs anything", {0, 0}, 100, {64, 512, 8}, {64, 64}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_EQ(allocate_budgets(curves_of(c.weights), c.average, c.range), c.right);
  }
  EXPECT_THROW(allocate_budgets({}, 100, {}), InvalidArgument);
}

// All budgets of three heads whose errors fall at different speeds are tried.
TEST(Allocation, NoOtherOfAsManyTokensCostsLess) {
  const auto error = [](std::size_t head, Index top_k) {
    constexpr double kFirst[] = {9, 4, 30}, kPower[] = {0.5, 1.5, 3};
    return kFirst[head] * std::pow(static_cast<double>(top_k) / 8, -kPower[head]);
  };
  const auto cost = [&](const std::vector<Index>& top_k) {
    return error(0, top_k[0]) + error(1, top_k[1]) + error(2, top_k[2]);
  };
  std::vector<BudgetCurve> curves;
  for (std::size_t head = 0; head < 3; ++head) curves.push_back({{8, 64}, {error(head, 8), error(head, 64)}});
  for (const double mean : {12.0, 24.0, 40.0}) {
    const std::vector<Index> found = allocate_budgets(curves, mean, {8, 64, 8});
    EXPECT_NEAR(average(found), mean, 4);
    for (Index a = 8; a <= 64; a += 8) {
      for (Index b = 8; b <= 64; b += 8) {
        for (Index c = 8; c <= 64; c += 8) {
          if (a + b + c > found[0] + found[1] + found[2]) continue;
          ASSERT_GE(cost({a, b, c}), cost(found) * (1 - 1e-12)) << a << " " << b << " " << c;
        }
      }
    }
  }
}

// What grows with the budget is noise, and what is nothing is small.
TEST(Allocation, ErrorsThatGrowOrVanishAreNoPrice) {
  const std::vector<BudgetCurve> curves = {{{8, 16, 64}, {1, 0.5, 0.9}}, {{8, 16, 64}, {1, 0, 0}}};
  EXPECT_EQ(allocate_budgets(curves, 16, {8, 64, 8}), (std::vector<Index>{16, 16}));
}

TEST(Allocation, BudgetsOfARange) {
  EXPECT_EQ(measured_budgets({64, 2048, 8}), (std::vector<Index>{64, 128, 256, 512, 1024, 2048}));
  EXPECT_EQ(measured_budgets({48, 200, 8}), (std::vector<Index>{48, 96, 192, 200}));
  EXPECT_EQ(measured_budgets({64, 64, 8}), (std::vector<Index>{64}));
  EXPECT_EQ(equal_budgets(3, 101, {64, 2048, 8}), (std::vector<Index>{104, 104, 104}));
  EXPECT_EQ(equal_budgets(1, 1, {60, 100, 16}), (std::vector<Index>{64}));
  const std::vector<BudgetCurve> one = {{{64}, {0.5}}, {{64}, {0.1}}};
  EXPECT_EQ(allocate_budgets(one, 64, {64, 64, 8}), (std::vector<Index>{64, 64}));
}

TEST(SmallestThatHolds, FindsTheEdgeInFewCalls) {
  for (const double edge : {64.0, 65.0, 300.0, 1024.0, 2047.0, 2048.0}) {
    Index calls = 0;
    const auto found = smallest_that_holds(64, 2048, 8, [&](double value) {
      ++calls;
      return value >= edge;
    });
    ASSERT_TRUE(found.has_value()) << edge;
    EXPECT_GE(*found, edge);
    EXPECT_LE(*found, edge * std::pow(32.0, 1.0 / 256) * (1 + 1e-9)) << edge;
    EXPECT_LE(calls, 10);
  }
  EXPECT_FALSE(smallest_that_holds(64, 2048, 8, [](double) { return false; }).has_value());
}

// A model whose head i loses weights[i]^2 / K: by head, a smaller budget holds the same target than uniformly.
TEST(SmallestThatHolds, ByHeadNeedsLessThanUniform) {
  const std::vector<BudgetCurve> curves = curves_of({0.7, 0.08, 0.08, 0.36, 0.08, 0.08});
  const BudgetRange range = {8, 4096, 8};
  const auto smallest = [&](const auto& budgets_of) {
    const auto found = smallest_that_holds(8, 4096, 12, [&](double mean) {
      const std::vector<Index> budgets = budgets_of(mean);
      double loss = 0;
      for (std::size_t i = 0; i < curves.size(); ++i) {
        loss += 64 * curves[i].errors.front() / static_cast<double>(budgets[i]);
      }
      return loss <= 0.002;
    });
    return average(budgets_of(found.value()));
  };
  const double by_head = smallest([&](double mean) { return allocate_budgets(curves, mean, range); }),
               uniform = smallest([&](double mean) { return equal_budgets(6, mean, range); });
  // In the limit of no rounding: the squared mean of weights against the mean of their squares.
  EXPECT_LT(by_head, 0.52 * uniform);
  EXPECT_GT(by_head, 0.44 * uniform);
}

TEST(Windows, AreDividedSoThatBothPartsAreSpread) {
  struct Case {
    Index count, first;
    std::vector<Index> taken;
  };
  const Case cases[] = {{6, 2, {2, 5}}, {5, 2, {2, 4}}, {2, 1, {1}}, {4, 3, {1, 2, 3}}};
  for (const Case& c : cases) {
    const WindowSplit split = split_windows(c.count, c.first);
    EXPECT_EQ(split.first, c.taken);
    EXPECT_EQ(std::ssize(split.rest), c.count - c.first);
    for (const Index i : split.rest) EXPECT_EQ(std::count(c.taken.begin(), c.taken.end(), i), 0);
  }
}

AttentionOptions attention(const std::string& name, Index window, Index top_k) {
  AttentionOptions options;
  options.attention = name;
  options.hsa = {.window = window, .top_k = top_k, .candidates = 4096, .block = 8, .sinks = 8, .dense_until = 0};
  return options;
}

TEST(AttendedShare, CountsWhatThePlanLists) {
  // The last of 1001 positions stands at a block's first token: window, itself, sinks and selected tokens.
  const AttendedShare sparse = attended_share({attention("hsa", 64, 128)}, 1001);
  EXPECT_DOUBLE_EQ(sparse.last, (64 + 1 + 8 + 128) / 1001.0);
  EXPECT_GT(sparse.average, sparse.last);
  EXPECT_LT(sparse.average, 1);
  for (const char* name : {"full", "sdpa"})
    EXPECT_DOUBLE_EQ(attended_share({attention(name, 64, 128)}, 700).average, 1);
  AttentionOptions by_head = attention("hsa", 64, 1);
  by_head.hsa.head_top_k = {60, 192};  // 64 and 192 in blocks
  EXPECT_DOUBLE_EQ(attended_share({by_head}, 1001).last, sparse.last);
  const AttendedShare both = attended_share({attention("hsa", 64, 128), attention("full", 0, 128)}, 1001);
  EXPECT_DOUBLE_EQ(both.last, (1 + sparse.last) / 2);
}

TEST(CompareRows, LocalAttendsAsManyTokensAsHsa) {
  PretrainedConfig config;
  config.windows = {0, 0, 100, 0};
  std::vector<AttentionOptions> hsa = {attention("hsa", 64, 128), attention("hsa", 64, 1024),
                                       attention("local", 99, 512), attention("full", 64, 512)};
  const auto names = [](const std::vector<AttentionOptions>& layers) {
    std::vector<std::string> names;
    for (const AttentionOptions& layer : layers) names.push_back(layer.attention);
    return names;
  };
  const auto local = layers_of_row("local", config, hsa);
  EXPECT_EQ(names(local), (std::vector<std::string>{"local", "local", "local", "full"}));
  EXPECT_EQ(local[2].hsa, hsa[2].hsa) << "a sliding window stays";
  for (const Index tokens : {4096, 4099, 4103}) {
    EXPECT_DOUBLE_EQ(attended_share(local, tokens).last, attended_share(hsa, tokens).last) << tokens;
  }
  hsa[0].hsa.head_top_k = {64, 192};
  EXPECT_DOUBLE_EQ(attended_share(layers_of_row("local", config, hsa), 4096).last, attended_share(hsa, 4096).last);
  EXPECT_EQ(names(layers_of_row("sdpa", config, hsa)), (std::vector<std::string>{"sdpa", "sdpa", "local", "sdpa"}));
  EXPECT_EQ(names(layers_of_row("bigbird", config, hsa)),
            (std::vector<std::string>{"bigbird", "bigbird", "local", "full"}));
  EXPECT_EQ(names(layers_of_row("hsa", config, hsa)), names(hsa));
}

TEST(CompareRows, SamplesAskForAtLeastTheDigitsThatAreWanted) {
  struct Case {
    Index answers, numbers, pass_keys, others;
  };
  const Case cases[] = {{1000, 16, 40, 10}, {0, 16, 0, 0}, {1, 16, 1, 0}, {60, 4, 3, 3}};
  for (const auto& [answers, numbers, pass_keys, others] : cases) {
    const RecallCounts counts = recall_counts(answers, numbers);
    EXPECT_EQ(counts.pass_keys, pass_keys) << answers;
    EXPECT_EQ(counts.numbers, others) << answers;
    EXPECT_GE(5 * (counts.pass_keys + counts.numbers * numbers), answers);
  }
}

TEST(Paired, IntervalsAreStudents) {
  struct Case {
    std::vector<double> values;
    double mean, half;
  };
  std::vector<double> many;
  for (int i = 0; i < 31; ++i) many.push_back(i % 2 == 0 ? 1 : -1);
  const Case cases[] = {{{1, 2}, 1.5, 12.706 * 0.5},
                        {{1, 2, 3}, 2, 4.303 / std::sqrt(3.0)},
                        {{4, 4, 4, 4}, 4, 0},
                        // 30 degrees of freedom: 2.0423
                        {many, 1.0 / 31, 2.0423 * std::sqrt((31 - 1.0 / 31) / 30 / 31)}};
  for (const Case& c : cases) {
    const Interval found = interval_of_mean(c.values);
    EXPECT_NEAR(found.mean, c.mean, 1e-12);
    EXPECT_NEAR(found.half, c.half, 1e-3 * c.half + 1e-12);
  }
  EXPECT_TRUE(std::isinf(interval_of_mean(std::vector<double>{0.7}).half));
  EXPECT_THROW(interval_of_mean({}), InvalidArgument);
}

TEST(Paired, WhatBothHaveInCommonDoesNotWidenTheInterval) {
  const std::vector<double> theirs = {1, 50, -20, 400}, ours = {1.1, 50.1, -19.9, 400.1};
  const Interval found = paired_difference(ours, theirs);
  EXPECT_NEAR(found.mean, 0.1, 1e-9);
  EXPECT_NEAR(found.half, 0, 1e-9);
  EXPECT_THROW(paired_difference(ours, std::vector<double>{1}), InvalidArgument);
}

TEST(Convert, TargetsAreSharesOrPercents) {
  ConvertOptions options;
  const std::pair<const char*, double> right[] = {{"0.5%", 0.005}, {"0.005", 0.005}, {"100%", 1.0}, {"1e-3", 0.001}};
  for (const auto& [text, share] : right) {
    options.target = text;
    EXPECT_DOUBLE_EQ(options.target_share(), share) << text;
  }
  for (const char* text : {"0", "-1", "-0.5%", "101%", "", "%", "half", "0.5 %", "nan", "0.5%%"}) {
    options.target = text;
    try {
      options.target_share();
      ADD_FAILURE() << text;
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(std::string(error.what()),
                std::string("target is ") + text + "; a share above 0 is right, such as 0.5% or 0.005");
    }
  }
}

TEST(Measurements, AreFoundAgainOnlyForTheSameThing) {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("m");
  Measurements first(path, "a");
  EXPECT_EQ(first.find("x"), nullptr);
  first.add("x", {1.0 / 3, 2});
  first.add("y", {});
  EXPECT_EQ(*Measurements(path, "a").find("x"), (std::vector<double>{1.0 / 3, 2}));
  EXPECT_EQ(Measurements(path, "b").find("x"), nullptr);
  write_file(path, R"({"of": "a", "values": {"x": "no numbers"}})");
  EXPECT_EQ(Measurements(path, "a").find("x"), nullptr);
  first.remove();
  EXPECT_EQ(Measurements(path, "a").find("x"), nullptr);
}

TEST(BudgetsFile, WinsOverTheConfigAndSaysWhatIsWrong) {
  PretrainedConfig config;
  config.layers = 2;
  config.windows = {0, 0};
  config.kv_heads = 2;
  config.budgets = {{"top_k", 8}};
  set_budgets(
      R"({"window": 64, "head_top_k": null, "layers": {"1": {"head_top_k": [256, 64]}}, "measured": {"target": 0.01}})",
      "hsattn.json", config);
  AttentionOptions base;
  base.preset = "any_model";
  base.apply_preset();
  set_model_budgets(config, base);
  const auto layers = layer_attention(config, base, true);
  EXPECT_EQ(layers[0].hsa.top_k, 512);
  EXPECT_EQ(layers[1].hsa.head_top_k, (std::vector<Index>{256, 64}));
  EXPECT_EQ(layers[1].hsa.window, 64);
  const std::pair<const char*, const char*> wrong[] = {
      {"[]", "hsattn.json: not a JSON object"},
      {R"({"top_q": 3})", "hsattn.json: unknown option \"top_q\""},
      {R"({"head_top_k": [8]})", "hsattn.json: head_top_k has 1 numbers; the model has 2 key/value heads"},
      {R"({"head_top_k": [8, 0]})", "hsattn.json: options: a head's top_k is 0; it must be from 1 to 2^40"},
      {R"({"head_top_k": 8})", "hsattn.json: option \"head_top_k\" has the wrong type: 8"},
      {R"({"layers": 3})", "hsattn.json: layers is no object"},
      {R"({"layers": {"2": {}}})", "hsattn.json: layers names \"2\"; there are 0 to 1"}};
  for (const auto& [text, message] : wrong) {
    try {
      set_budgets(text, "hsattn.json", config);
      AttentionOptions options;
      set_model_budgets(config, options);
      layer_attention(config, options, true);
      ADD_FAILURE() << text;
    } catch (const FileError& error) {
      EXPECT_EQ(std::string(error.what()), message);
    }
  }
}

}  // namespace
}  // namespace hsattn::lm
