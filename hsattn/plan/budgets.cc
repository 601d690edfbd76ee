#include "hsattn/plan/budgets.h"

#include <cmath>
#include <string>

#include "hsattn/base/error.h"

namespace hsattn {
namespace {

constexpr double kMillion = 1e6;

// The one definition of the order; head_top_k follows.
template <class Options, class Each>
void for_each_budget(Options& o, const Each& each) {
  each("window", o.window);
  each("top_k", o.top_k);
  each("candidates", o.candidates);
  each("block", o.block);
  each("sinks", o.sinks);
  each("top_nodes", o.top_nodes);
  each("beam", o.beam);
  each("dense_until", o.dense_until);
  each("far_field", o.far_field);
  each("levels", o.levels);
  each("pooling", o.pooling);
  each("mass", o.mass);
  each("min_top_k", o.min_top_k);
  each("stride", o.stride);
  each("dilation", o.dilation);
  each("pattern_seed", o.pattern_seed);
  each("node", o.node);
  each("tail", o.tail);
  each("parts", o.parts);
}

Index number_of(Index x) { return x; }
Index number_of(bool x) { return x ? 1 : 0; }
Index number_of(Pooling x) { return x == Pooling::kMax ? 1 : 0; }
Index number_of(double x) { return std::llround(x * kMillion); }
double in_millionths(double x) { return static_cast<double>(number_of(x)) / kMillion; }

void read(const char* /*name*/, Index number, Index& to) { to = number; }
void read(const char* /*name*/, Index number, double& to) { to = static_cast<double>(number) / kMillion; }
void read(const char* name, Index number, bool& to) {
  check(number == 0 || number == 1, "budgets: ", name, " is ", number, "; it must be 0 or 1");
  to = number == 1;
}
void read(const char* name, Index number, Pooling& to) {
  check(number == 0 || number == 1, "budgets: ", name, " is ", number, "; it must be 0 (mean) or 1 (max)");
  to = number == 1 ? Pooling::kMax : Pooling::kMean;
}

// Made only where it is needed: names take a call of one token half of its time.
std::string wrong_count(std::size_t found, std::size_t right) {
  HsaOptions options;
  std::string names;
  for_each_budget(options, [&](const char* name, const auto&) { names += concat(names.empty() ? "" : ", ", name); });
  return concat("budgets: there are ", found, " numbers; there must be at least ", right, ": ", names);
}

}  // namespace

std::vector<Index> budgets_of(const HsaOptions& options) {
  std::vector<Index> budgets;
  for_each_budget(options, [&](const char*, const auto& value) { budgets.push_back(number_of(value)); });
  budgets.insert(budgets.end(), options.head_top_k.begin(), options.head_top_k.end());
  return budgets;
}

double mass_budget(const HsaOptions& options) { return in_millionths(options.mass); }

double tail_share(const HsaOptions& options) { return in_millionths(options.tail); }

HsaOptions options_of_budgets(std::span<const Index> budgets) {
  HsaOptions options;
  std::size_t count = 0;
  for_each_budget(options, [&](const char*, const auto&) { ++count; });
  if (budgets.size() < count) throw InvalidArgument(wrong_count(budgets.size(), count));
  auto number = budgets.begin();
  for_each_budget(options, [&](const char* name, auto& value) { read(name, *number++, value); });
  options.head_top_k.assign(number, budgets.end());
  return options;
}

}  // namespace hsattn
