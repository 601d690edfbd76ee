// Scalar types shared by every room of the library.
#pragma once

#include <cstdint>

namespace hsattn {

/// Counts, sizes, strides and offsets; 64 bits, so that nothing breaks past 2^31 elements.
using Index = std::int64_t;

/// Element types of tensors. float32 runs on the SIMD kernels, float64 on the reference.
enum class DType { kFloat32, kFloat64 };

constexpr Index size_of(DType type) { return type == DType::kFloat32 ? 4 : 8; }
constexpr const char* name_of(DType type) { return type == DType::kFloat32 ? "float32" : "float64"; }

}  // namespace hsattn
