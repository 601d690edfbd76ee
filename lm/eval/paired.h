// How far apart two ways are that were measured on the same things. No torch here.
#pragma once

#include <span>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// Of at least one value.
double mean(std::span<const double> values);

/// A mean and half the width of its 95 % interval, by Student's t. Half is infinite for fewer than two values.
struct Interval {
  double mean = 0, half = 0;

  double low() const { return mean - half; }
  double high() const { return mean + half; }
};

/// Of values that do not depend on each other. Throws InvalidArgument if there are none.
Interval interval_of_mean(std::span<const double> values);

/// Of ours[i] - theirs[i], measured on the same thing i. Throws InvalidArgument unless there are equally many.
Interval paired_difference(std::span<const double> ours, std::span<const double> theirs);

}  // namespace hsattn::lm
