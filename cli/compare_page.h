// The page of `hsattn compare`.
#pragma once

#include <string>

#include "lm/pretrained/compare.h"

namespace hsattn::cli {

/// A whole HTML document that loads nothing from elsewhere. `precision` is what was computed in.
std::string compare_page(const lm::CompareOptions& options, const lm::CompareReport& report,
                         const std::string& precision);

/// "+0.52 % +- 0.10"; no interval where there is none.
std::string with_interval(const lm::Interval& share);

}  // namespace hsattn::cli
