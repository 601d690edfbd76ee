#include "lm/eval/paired.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

// Two-sided 95 % quantile of Student's t: tables up to 10 degrees of freedom, then the first terms of its expansion in
// their inverse (error below 0.001).
double student(Index degrees) {
  constexpr double kTable[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228};
  if (degrees <= 10) return kTable[degrees - 1];
  constexpr double z = 1.959964;
  const double d = static_cast<double>(degrees);
  return z + (z * z * z + z) / (4 * d) + (5 * std::pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * d * d);
}

}  // namespace

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Interval interval_of_mean(std::span<const double> values) {
  check(!values.empty(), "interval_of_mean: there are no values; at least 1 is right");
  const double count = static_cast<double>(values.size());
  Interval interval{mean(values), 0};
  if (values.size() == 1) {
    interval.half = std::numeric_limits<double>::infinity();
    return interval;
  }
  double squares = 0;
  for (const double value : values) squares += (value - interval.mean) * (value - interval.mean);
  interval.half = student(static_cast<Index>(values.size()) - 1) * std::sqrt(squares / (count - 1) / count);
  return interval;
}

Interval paired_difference(std::span<const double> ours, std::span<const double> theirs) {
  check(ours.size() == theirs.size(), "paired_difference: ", ours.size(), " and ", theirs.size(),
        " values; equally many are right");
  std::vector<double> differences;
  for (std::size_t i = 0; i < ours.size(); ++i) differences.push_back(ours[i] - theirs[i]);
  return interval_of_mean(differences);
}

}  // namespace hsattn::lm
