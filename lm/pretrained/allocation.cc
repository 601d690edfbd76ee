#include "lm/pretrained/allocation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/plan/plan.h"

namespace hsattn::lm {

AttendedShare operator+(const AttendedShare& a, const AttendedShare& b) {
  return {a.last + b.last, a.average + b.average};
}

AttendedShare operator/(const AttendedShare& a, double divisor) { return {a.last / divisor, a.average / divisor}; }

namespace {

constexpr int kHalvings = 60;  // of the logarithm of the price of a token: until it moves no more

Index rounded(double wanted, const BudgetRange& range) {
  const Index least = round_up(range.least, range.block), most = std::max(round_up(range.most, range.block), least);
  const double block = static_cast<double>(range.block);
  const double blocks = std::round(std::min(wanted, static_cast<double>(most)) / block);
  return std::clamp(static_cast<Index>(blocks) * range.block, least, most);
}

double mean(const std::vector<Index>& values) {
  return static_cast<double>(std::accumulate(values.begin(), values.end(), Index{0})) /
         static_cast<double>(values.size());
}

// Errors of every budget of the range: straight lines between the logarithms of those that were measured. An error that
// grows with the budget is noise, and none at all is a millionth of the first.
std::vector<double> errors_of_range(const BudgetCurve& curve, const std::vector<Index>& range) {
  std::vector<double> logs;
  for (const double error : curve.errors) {
    const double least = 1e-6 * std::max(curve.errors.front(), 1e-300);
    logs.push_back(std::log(std::max(error, least)));
    if (logs.size() > 1) logs.back() = std::min(logs.back(), logs[logs.size() - 2]);
  }
  std::vector<double> errors;
  std::size_t i = 0;
  const auto log_of = [&](std::size_t at) { return std::log(static_cast<double>(curve.top_k[at])); };
  for (const Index top_k : range) {
    while (i + 2 < logs.size() && top_k > curve.top_k[i + 1]) ++i;
    const double x = std::log(static_cast<double>(top_k));
    const double slope = logs.size() == 1 ? 0 : (logs[i + 1] - logs[i]) / (log_of(i + 1) - log_of(i));
    errors.push_back(std::exp(logs[i] + slope * (x - log_of(i))));
  }
  return errors;
}

// Of a key/value head's lists, at most.
Index listed_blocks(const PlanShape& shape, const PlanOptions& options, Index head) {
  if (options.hsa.head_top_k.empty() || shape.slots() == 0) return shape.slots();
  return std::min(shape.slots(), shape.sinks + ceil_div(options.hsa.top_k_of(head), shape.block));
}

// Of a head whose lists hold at most `slots` blocks.
AttendedShare share_of(const PlanShape& shape, Index slots) {
  AttendedShare share;
  for (Index p = 0; p < shape.keys; ++p) {
    const Index listed = shape.dense(p) ? 0 : std::min(shape.left(p).size(), slots);
    share.last = static_cast<double>(shape.near(p).size() + listed * shape.block) / static_cast<double>(p + 1);
    share.average += share.last;
  }
  share.average /= static_cast<double>(shape.keys);
  return share;
}

AttendedShare share_of(const AttentionOptions& layer, Index tokens) {
  if (!layer.ours()) return {1, 1};
  const PlanOptions options = layer.plan_options();
  const Index heads = std::max<Index>(1, std::ssize(options.hsa.head_top_k));
  const PlanShape shape = plan_shape(options, DType::kFloat32, 1, heads, tokens, tokens);
  AttendedShare share;
  for (Index head = 0; head < heads; ++head) share = share + share_of(shape, listed_blocks(shape, options, head));
  return share / static_cast<double>(heads);
}

}  // namespace

std::vector<Index> measured_budgets(const BudgetRange& range) {
  std::vector<Index> budgets;
  for (Index top_k = range.least; top_k < range.most; top_k *= 2) budgets.push_back(top_k);
  budgets.push_back(std::max(range.least, range.most));
  return budgets;
}

std::vector<Index> equal_budgets(Index heads, double average, const BudgetRange& range) {
  return std::vector<Index>(static_cast<std::size_t>(heads), rounded(average, range));
}

// The sum of errors is smallest where a token more is worth the same to each head: its price.
std::vector<Index> allocate_budgets(const std::vector<BudgetCurve>& curves, double average, const BudgetRange& range) {
  check(!curves.empty(), "allocate_budgets: there are no heads; one is right");
  std::vector<Index> budgets;
  for (Index top_k = rounded(0, range); top_k <= rounded(1e18, range); top_k += range.block) budgets.push_back(top_k);
  std::vector<std::vector<double>> errors;
  double largest = 1e-300;
  for (const BudgetCurve& curve : curves) {
    errors.push_back(errors_of_range(curve, budgets));
    largest = std::max(largest, errors.back().front());
  }
  const auto at_price = [&](double log_price) {
    const double price = std::exp(log_price);
    std::vector<Index> chosen;
    for (const std::vector<double>& of_head : errors) {
      std::size_t best = 0;
      const auto cost = [&](std::size_t i) { return of_head[i] + price * static_cast<double>(budgets[i]); };
      for (std::size_t i = 1; i < budgets.size(); ++i) best = cost(i) < cost(best) ? i : best;
      chosen.push_back(budgets[best]);
    }
    return chosen;
  };
  double cheap = std::log(largest) - 60, dear = std::log(largest) + 1;
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (cheap + dear) / 2;
    (mean(at_price(middle)) > average ? cheap : dear) = middle;
  }
  const std::vector<Index> above = at_price(cheap), below = at_price(dear);
  return average - mean(below) < mean(above) - average ? below : above;
}

std::optional<double> smallest_that_holds(double least, double most, Index steps,
                                          const std::function<bool(double)>& holds) {
  if (!holds(most)) return std::nullopt;
  if (least >= most) return most;
  if (holds(least)) return least;
  double low = least, high = most;
  for (Index i = 0; i < steps; ++i) {
    const double middle = std::sqrt(low * high);
    (holds(middle) ? high : low) = middle;
  }
  return high;
}

HeldShare operator+(const HeldShare& a, const HeldShare& b) { return {a.mass + b.mass, a.attended + b.attended}; }

HeldShare operator/(const HeldShare& a, double divisor) { return {a.mass / divisor, a.attended / divisor}; }

AttendedShare attended_share(const std::vector<AttentionOptions>& layers, Index tokens) {
  AttendedShare sum;
  for (const AttentionOptions& layer : layers) sum = sum + share_of(layer, tokens);
  return sum / static_cast<double>(layers.size());
}

WindowSplit split_windows(Index count, Index first) {
  WindowSplit split;
  for (Index i = 0; i < count; ++i) {
    const bool taken = (i + 1) * first / count > i * first / count;
    (taken ? split.first : split.rest).push_back(i);
  }
  return split;
}

}  // namespace hsattn::lm
