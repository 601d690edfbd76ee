#include "lm/eval/theory.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"

namespace hsattn::cli {
namespace {

// Errors that are rounding of sums in double say nothing.
constexpr double kRounding = 1e-12;

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

struct Summary {
  std::size_t exceeded = 0;
  std::vector<double> tightness;  // error / bound, where the bound is more than rounding
};

Summary summary_of(const std::vector<lm::TheoryCase>& cases) {
  Summary summary;
  for (const lm::TheoryCase& c : cases) {
    const double floor = kRounding * c.result.diameter;
    const bool holds = c.result.error <= c.result.bound * (1 + 1e-9) + floor;  // not of NaN
    if (!holds) ++summary.exceeded;
    if (c.result.bound > 1e3 * floor) summary.tightness.push_back(c.result.error / c.result.bound);
  }
  return summary;
}

// Means over the cases of like length and coherence, as shares of the diameter of the values.
nlohmann::ordered_json by_length_and_alpha(const std::vector<lm::TheoryCase>& cases) {
  struct Sum {
    double count = 0, alpha = 0, error = 0, bound = 0, mass = 0;
  };
  std::map<std::pair<int, int>, Sum> cells;
  for (const lm::TheoryCase& c : cases) {
    if (c.result.diameter == 0 || c.result.alpha == 0) continue;
    const int length = static_cast<int>(std::floor(std::log2(static_cast<double>(c.tokens))));
    Sum& sum = cells[{length, static_cast<int>(std::floor(std::log2(c.result.alpha)))}];
    ++sum.count, sum.alpha += c.result.alpha, sum.mass += c.result.mass;
    sum.error += c.result.error / c.result.diameter, sum.bound += c.result.bound / c.result.diameter;
  }
  auto rows = nlohmann::ordered_json::array();
  for (const auto& [cell, sum] : cells) {
    rows.push_back({{"tokens", 1 << cell.first},
                    {"alpha", sum.alpha / sum.count},
                    {"cases", sum.count},
                    {"error", sum.error / sum.count},
                    {"bound", sum.bound / sum.count},
                    {"mass", sum.mass / sum.count}});
  }
  return rows;
}

void print_json(const lm::TheoryOptions& o, const std::vector<lm::TheoryCase>& cases, const Summary& s,
                std::ostream& out) {
  nlohmann::ordered_json json = {{"rows", o.model.empty() ? "random" : "trained"},
                                 {"cases", cases.size()},
                                 {"exceeded", s.exceeded},
                                 {"tightness_median", quantile(s.tightness, 0.5)},
                                 {"tightness_90", quantile(s.tightness, 0.9)},
                                 {"tightness_99", quantile(s.tightness, 0.99)},
                                 {"tightness_most", quantile(s.tightness, 1)}};
  json["by_length_and_alpha"] = by_length_and_alpha(cases);
  out << json.dump() << "\n";
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::TheoryOptions options;
  parse_arguments(arguments, options);
  const std::vector<lm::TheoryCase> cases = lm::theory_cases(options, interrupted());
  if (interrupted()) return kInterrupted;
  const Summary summary = summary_of(cases);
  if (options.json) {
    print_json(options, cases, summary, out);
  } else {
    out << cases.size() << " rows, the bound was exceeded by " << summary.exceeded << "; error / bound: median "
        << fixed(quantile(summary.tightness, 0.5), 3) << ", 99% " << fixed(quantile(summary.tightness, 0.99), 3)
        << ", most " << fixed(quantile(summary.tightness, 1), 3) << "\n";
  }
  return summary.exceeded == 0 ? kSuccess : kFailure;
}

void print(std::ostream& out) {
  lm::TheoryOptions options;
  print_options(options, out);
}

}  // namespace

Command theory_command() {
  return {"theory", "the bound of docs/theory.md held against rows of attention, random or of a model",
          "  hsattn theory --cases 10000\n"
          "  hsattn theory --model runs/hsa --text runs/data/heldout.tokens --context 4096\n",
          run, print};
}

}  // namespace hsattn::cli
