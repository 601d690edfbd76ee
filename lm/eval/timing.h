// Time of a call, and the middle of several.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace hsattn::lm {

template <class Body>
double milliseconds(const Body& body) {
  const auto began = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count();
}

/// Of an even number of values the upper one of the two in the middle. `values` is not empty.
template <class Value>
Value median(std::vector<Value> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

}  // namespace hsattn::lm
