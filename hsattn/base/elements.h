// The element types of tensors in C++; the two half-precision types are storage, arithmetic is done in float32.
#pragma once

#include <bit>
#include <cstdint>

#include "hsattn/base/types.h"

namespace hsattn {

/// bfloat16: the upper half of a float32. Rounds to nearest, ties to even; NaN stays NaN.
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  explicit BFloat16(float x) {
    const auto word = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t rounded = (word + 0x7fffU + (word >> 16 & 1U)) >> 16;
    const std::uint32_t nan = word >> 16 | 0x40U;
    bits = static_cast<std::uint16_t>((word & 0x7fffffffU) > 0x7f800000U ? nan : rounded);
  }
  explicit BFloat16(double x) : BFloat16(static_cast<float>(x)) {}
  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

/// IEEE float16, subnormal numbers included. Rounds to nearest, ties to even; beyond 65504 it becomes Inf.
struct Float16 {
  std::uint16_t bits = 0;

  Float16() = default;
  explicit Float16(float x) {
    const auto word = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = word >> 16 & 0x8000U, magnitude = word & 0x7fffffffU;
    constexpr std::uint32_t kHalf = 0x3f000000U;  // adding 0.5 leaves a subnormal float16 in the last bits
    const float shifted = std::bit_cast<float>(magnitude) + std::bit_cast<float>(kHalf);
    const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(shifted) - kHalf;
    const std::uint32_t normal = (magnitude - 0x38000000U + 0xfffU + (magnitude >> 13 & 1U)) >> 13;
    const std::uint32_t beyond = magnitude > 0x7f800000U ? 0x7e00U : 0x7c00U;  // NaN, Inf
    const std::uint32_t finite = magnitude < 0x38800000U ? subnormal : normal;
    bits = static_cast<std::uint16_t>(sign | (magnitude >= 0x47800000U ? beyond : finite));
  }
  explicit Float16(double x) : Float16(static_cast<float>(x)) {}
  explicit operator float() const {
    const std::uint32_t sign = (bits & 0x8000U) << 16, magnitude = (bits & 0x7fffU) << 13;
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p112F;  // moves the exponent's bias from 15 to 127
    const std::uint32_t beyond = (bits & 0x7c00U) == 0x7c00U ? 0x7f800000U : 0U;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | beyond | sign);
  }
  explicit operator double() const { return static_cast<double>(static_cast<float>(*this)); }
};

/// body(T{}) for the C++ type T of a DType.
template <class Body>
void with_element_type(DType type, const Body& body) {
  switch (type) {
    case DType::kFloat64:
      return body(double{});
    case DType::kBFloat16:
      return body(BFloat16{});
    case DType::kFloat16:
      return body(Float16{});
    default:
      return body(float{});
  }
}

}  // namespace hsattn
