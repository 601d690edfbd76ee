#include "lm/pretrained/allocation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/plan/plan.h"

namespace hsattn::lm {
namespace {

constexpr double kSmallestShare = 1e-4;  // of the largest loss: what a layer counts at least
constexpr int kHalvings = 60;            // of the factor between weights and budgets: until it moves no more

std::vector<Index> scaled(const std::vector<double>& weights, double factor, const BudgetRange& range) {
  const double block = static_cast<double>(range.block);
  const Index least = round_up(range.least, range.block), most = std::max(round_up(range.most, range.block), least);
  std::vector<Index> budgets;
  for (const double weight : weights) {
    const double wanted = std::clamp(factor * weight, static_cast<double>(least), static_cast<double>(most));
    budgets.push_back(std::clamp(static_cast<Index>(std::round(wanted / block)) * range.block, least, most));
  }
  return budgets;
}

double mean(const std::vector<Index>& values) {
  return static_cast<double>(std::accumulate(values.begin(), values.end(), Index{0})) /
         static_cast<double>(values.size());
}

AttendedShare share_of(const AttentionOptions& layer, Index tokens) {
  if (!layer.ours()) return {1, 1};
  const PlanShape shape = plan_shape(layer.plan_options(), DType::kFloat32, 1, 1, tokens, tokens);
  AttendedShare share;
  for (Index p = 0; p < tokens; ++p) {
    const Index listed = shape.dense(p) ? 0 : std::min(shape.left(p).size(), shape.slots());
    share.last = static_cast<double>(shape.near(p).size() + listed * shape.block) / static_cast<double>(p + 1);
    share.average += share.last;
  }
  share.average /= static_cast<double>(tokens);
  return share;
}

}  // namespace

std::vector<Index> allocate_budgets(const std::vector<double>& weights, double average, const BudgetRange& range) {
  const double largest = weights.empty() ? 0 : *std::max_element(weights.begin(), weights.end());
  check(largest > 0, "allocate_budgets: no weight is above 0; one is right");
  double low = 0, high = static_cast<double>(range.most) / largest;  // factors
  while (mean(scaled(weights, high, range)) < average && high * largest < 1e12 * static_cast<double>(range.most)) {
    high *= 2;
  }
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    (mean(scaled(weights, middle, range)) < average ? low : high) = middle;
  }
  const std::vector<Index> below = scaled(weights, low, range), above = scaled(weights, high, range);
  return average - mean(below) < mean(above) - average ? below : above;
}

std::vector<double> budget_weights(const std::vector<double>& losses) {
  const double largest = losses.empty() ? 0 : *std::max_element(losses.begin(), losses.end());
  std::vector<double> weights;
  for (const double loss : losses) {
    weights.push_back(largest > 0 ? std::sqrt(std::max(loss, kSmallestShare * largest)) : 1);
  }
  return weights;
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

AttendedShare operator+(const AttendedShare& a, const AttendedShare& b) {
  return {a.last + b.last, a.average + b.average};
}

AttendedShare operator/(const AttendedShare& a, double divisor) { return {a.last / divisor, a.average / divisor}; }

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
