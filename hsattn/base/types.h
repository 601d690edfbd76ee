// Scalar types shared by every room of the library.
#pragma once

#include <cstdint>

namespace hsattn {

/// Counts, sizes, strides and offsets; 64 bits, so that nothing breaks past 2^31 elements.
using Index = std::int64_t;

/// Element types of tensors. float64 runs on the reference, the others on the SIMD kernels, which compute in float32
/// or, where the processor has them, with bfloat16 dot products that add up in float32.
enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr Index size_of(DType type) { return type == DType::kFloat64 ? 8 : type == DType::kFloat32 ? 4 : 2; }

constexpr const char* name_of(DType type) {
  switch (type) {
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
    default:
      return "float32";
  }
}

/// The type of lse for tensors of `type`: float64 for float64, else float32.
constexpr DType lse_type(DType type) { return type == DType::kFloat64 ? type : DType::kFloat32; }

/// The type of a pooled node's keys and values, of a pooler's parameters and of the gradients of both: as lse's.
constexpr DType node_type(DType type) { return lse_type(type); }

}  // namespace hsattn
