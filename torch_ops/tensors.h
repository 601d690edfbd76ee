// Tensors to views: no copy unless the elements of one token lie apart.
#pragma once

#include <algorithm>
#include <optional>
#include <ostream>
#include <vector>

#include "hsattn/base/error.h"
#include "hsattn/base/view.h"
#include "torch/csrc/stable/ops.h"
#include "torch/csrc/stable/tensor.h"

namespace hsattn::torch_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/// Prints a shape; text is made only for a message that is thrown, as a call on a few tokens takes microseconds.
struct ShapeOf {
  const Tensor& tensor;
};
inline ShapeOf shape_of(const Tensor& t) { return {t}; }

inline std::ostream& operator<<(std::ostream& out, const ShapeOf& shape) {
  out << "[";
  for (Index i = 0; i < shape.tensor.dim(); ++i) out << (i == 0 ? "" : ", ") << shape.tensor.size(i);
  return out << "]";
}

inline DType dtype_of(const char* who, const char* name, const Tensor& t) {
  const ScalarType type = t.scalar_type();
  if (type == ScalarType::Float) return DType::kFloat32;
  if (type == ScalarType::Double) return DType::kFloat64;
  if (type == ScalarType::BFloat16) return DType::kBFloat16;
  if (type == ScalarType::Half) return DType::kFloat16;
  throw Unsupported(concat(who, ": ", name, " has type ", torch::headeronly::toString(type),
                           "; Float (float32), BFloat16, Half (float16) and Double (float64) are supported"));
}

inline void check_on_cpu(const char* who, const char* name, const Tensor& t) {
  if (!t.is_cpu()) throw Unsupported(concat(who, ": ", name, " is not on the CPU; only CPU tensors are supported"));
}

/// The type of lse beside tensors like `t`.
inline ScalarType lse_type_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

/// `t` itself if it is a [batch, heads, tokens, dim] tensor whose tokens' elements are adjacent, else a contiguous
/// copy. Throws on a wrong device, type or rank.
inline Tensor readable(const char* who, const char* name, const Tensor& t) {
  check_on_cpu(who, name, t);
  dtype_of(who, name, t);
  check(t.dim() == 4, who, ": ", name, " has shape ", shape_of(t), "; it must be [batch, heads, tokens, dim]");
  return t.size(3) > 1 && t.stride(3) != 1 ? torch::stable::contiguous(t) : t;
}

/// lse [batch, heads, queries] as the kernels read it; its shape is checked here because a pointer has none.
inline Tensor readable_lse(const char* who, const Tensor& lse, const Tensor& q) {
  check_on_cpu(who, "lse", lse);
  const bool fits = lse.dim() == 3 && lse.size(0) == q.size(0) && lse.size(1) == q.size(1) && lse.size(2) == q.size(2);
  check(fits && lse.scalar_type() == lse_type_of(q), who, ": lse has shape ", shape_of(lse), " and type ",
        torch::headeronly::toString(lse.scalar_type()), ", q has ", shape_of(q),
        "; lse must be [batch, heads, queries] and ", torch::headeronly::toString(lse_type_of(q)));
  return torch::stable::contiguous(lse);
}

template <class Pointer>
BasicView<Pointer> view_with(Pointer data, const Tensor& t) {
  return {data,       dtype_of("tensor", "it", t), t.size(0), t.size(1), t.size(2), t.size(3), t.stride(0), t.stride(1),
          t.stride(2)};
}

/// Views of tensors that came from readable() or new_tensor().
inline ConstView const_view(const Tensor& t) { return view_with(t.const_data_ptr(), t); }
inline View view(const Tensor& t) { return view_with(t.mutable_data_ptr(), t); }

/// Contiguous, not filled, on the CPU. Straight from torch's allocator: by way of the dispatcher the outputs of a call
/// on one token would take a third of its time.
inline Tensor new_tensor(const Tensor& like, const std::vector<Index>& shape, std::optional<ScalarType> type = {}) {
  std::vector<Index> strides(shape.size());
  Index step = 1;
  for (std::size_t i = shape.size(); i-- > 0; step *= std::max<Index>(1, shape[i])) strides[i] = step;
  const auto type_code =
      torch::stable::detail::to<std::int32_t>(torch::stable::detail::from(type.value_or(like.scalar_type())));
  AtenTensorHandle tensor = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<Index>(shape.size()), shape.data(), strides.data(),
                                                         type_code, aoti_torch_device_type_cpu(), 0, &tensor));
  return Tensor(tensor);
}

inline Tensor new_like(const Tensor& t) { return new_tensor(t, {t.size(0), t.size(1), t.size(2), t.size(3)}); }

/// The same shape, laid out [batch, tokens, heads, dim]: a view of packed tokens is contiguous then.
inline Tensor new_token_major(const Tensor& t) {
  return torch::stable::transpose(new_tensor(t, {t.size(0), t.size(2), t.size(1), t.size(3)}), 1, 2);
}

inline std::int32_t* ids(const Tensor& lists) { return static_cast<std::int32_t*>(lists.mutable_data_ptr()); }
inline const std::int32_t* const_ids(const Tensor& lists) {
  return static_cast<const std::int32_t*>(lists.const_data_ptr());
}

}  // namespace hsattn::torch_ops
