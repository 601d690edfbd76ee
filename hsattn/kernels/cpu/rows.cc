#include "hsattn/kernels/cpu/rows.h"

#include <cstring>

#include "hsattn/base/elements.h"

namespace hsattn::cpu {

void read_row(DType type, const std::byte* row, Index dim, float factor, float* to) {
  with_element_type(type, [&](auto element) {
    const auto* from = reinterpret_cast<const decltype(element)*>(row);
    for (Index d = 0; d < dim; ++d) to[d] = static_cast<float>(from[d]) * factor;
  });
}

void write_row(DType type, const float* from, Index dim, std::byte* row) {
  with_element_type(type, [&](auto element) {
    using Element = decltype(element);
    auto* to = reinterpret_cast<Element*>(row);
    for (Index d = 0; d < dim; ++d) to[d] = static_cast<Element>(from[d] + 0.0F);
  });
}

void pair_up_rows(const std::byte* low, const std::byte* high, Index dim, float* pairs) {
  for (Index d = 0; d < dim; ++d) {
    std::uint16_t a = 0, b = 0;
    if (low != nullptr) std::memcpy(&a, low + 2 * d, sizeof a);
    if (high != nullptr) std::memcpy(&b, high + 2 * d, sizeof b);
    const std::uint32_t pair = a | static_cast<std::uint32_t>(b) << 16;
    std::memcpy(pairs + d, &pair, sizeof pair);
  }
}

void set_high_halves(const std::byte* high, Index dim, float* pairs) {
  for (Index d = 0; d < dim; ++d) {
    std::uint16_t half = 0;
    std::uint32_t pair = 0;
    std::memcpy(&half, high + 2 * d, sizeof half);
    std::memcpy(&pair, pairs + d, sizeof pair);
    pair = (pair & 0xffffU) | static_cast<std::uint32_t>(half) << 16;
    std::memcpy(pairs + d, &pair, sizeof pair);
  }
}

Rows<const float> float_rows(const StoredRows& rows, Index begin, Index count, float* space) {
  if (rows.dtype == DType::kFloat32) {
    return {reinterpret_cast<const float*>(rows.row(begin)), count, rows.dim, rows.stride};
  }
  for (Index i = 0; i < count; ++i) read_row(rows.dtype, rows.row(begin + i), rows.dim, 1, space + i * rows.dim);
  return {space, count, rows.dim, rows.dim};
}

}  // namespace hsattn::cpu
