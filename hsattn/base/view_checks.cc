#include "hsattn/base/view_checks.h"

#include <algorithm>
#include <array>
#include <ostream>
#include <utility>

#include "hsattn/base/error.h"

namespace hsattn {
namespace {

constexpr Index kMostElements = Index{1} << 56;  // of one tensor; far above any memory, far below overflow

// Prints a shape; text is made only for a message that is thrown, as a call on a few tokens takes microseconds.
struct ShapeOf {
  const ConstView& view;
};
ShapeOf shape_of(const ConstView& view) { return {view}; }

std::ostream& operator<<(std::ostream& out, const ShapeOf& shape) {
  const ConstView& v = shape.view;
  return out << "[" << v.batch << ", " << v.heads << ", " << v.tokens << ", " << v.dim << "]";
}

}  // namespace

void check_view(const char* who, const char* name, const ConstView& v) {
  check(v.batch >= 0 && v.heads >= 0 && v.tokens >= 0 && v.dim >= 0, who, ": ", name, " has shape ", shape_of(v),
        "; no size may be negative");
  check(v.batch_stride >= 0 && v.head_stride >= 0 && v.token_stride >= 0, who, ": ", name, " has strides ",
        v.batch_stride, ", ", v.head_stride, ", ", v.token_stride, "; none may be negative");
  double elements = 1, extent = 0;
  for (const auto& [size, stride] :
       {std::pair{v.batch, v.batch_stride}, {v.heads, v.head_stride}, {v.tokens, v.token_stride}, {v.dim, Index{1}}}) {
    elements *= static_cast<double>(size);
    extent += static_cast<double>(size) * static_cast<double>(stride);
  }
  check(elements < static_cast<double>(kMostElements) && extent < static_cast<double>(kMostElements), who, ": ", name,
        " has shape ", shape_of(v), " and strides ", v.batch_stride, ", ", v.head_stride, ", ", v.token_stride,
        "; it must span less than 2^56 elements");
  check(v.data != nullptr || v.elements() == 0, who, ": ", name, " has no memory; shape ", shape_of(v), " needs some");
}

void check_same(const char* who, const char* name, const ConstView& found, const char* like, const ConstView& right) {
  check_view(who, name, found);
  check(found.dtype == right.dtype, who, ": ", name, " is ", name_of(found.dtype), ", ", like, " is ",
        name_of(right.dtype), "; they must be equal");
  check(found.batch == right.batch && found.heads == right.heads && found.tokens == right.tokens &&
            found.dim == right.dim,
        who, ": ", name, " has shape ", shape_of(found), ", ", like, " has ", shape_of(right), "; they must be equal");
}

Bytes bytes_of(const char* name, const ConstView& v) {
  const auto begin = reinterpret_cast<std::uintptr_t>(v.data);
  if (v.elements() == 0) return {name, begin, begin};
  const Index last =
      (v.batch - 1) * v.batch_stride + (v.heads - 1) * v.head_stride + (v.tokens - 1) * v.token_stride + v.dim;
  return {name, begin, begin + static_cast<std::uintptr_t>(last * size_of(v.dtype))};
}

Bytes bytes_of(const char* name, const void* data, Index elements, DType type) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {name, begin, begin + static_cast<std::uintptr_t>(data == nullptr ? 0 : elements * size_of(type))};
}

void check_apart(const char* who, const Bytes& written, std::initializer_list<Bytes> others) {
  for (const Bytes& other : others) {
    const bool overlap = written.begin < other.end && other.begin < written.end;
    check(!overlap, who, ": ", written.name, " shares memory with ", other.name, "; it must lie apart");
  }
}

// From the smallest stride up, each must step over all that the ones below it span.
void check_not_folded(const char* who, const char* name, const ConstView& v) {
  if (v.elements() == 0) return;
  std::array<std::pair<Index, Index>, 3> axes{
      {{v.batch_stride, v.batch}, {v.head_stride, v.heads}, {v.token_stride, v.tokens}}};
  std::sort(axes.begin(), axes.end());
  Index span = v.dim;
  bool folded = false;
  for (const auto& [stride, size] : axes) {
    if (size == 1) continue;
    folded |= stride < span;
    span += (size - 1) * stride;
  }
  check(!folded, who, ": ", name, " has strides ", v.batch_stride, ", ", v.head_stride, ", ", v.token_stride,
        " for dimension ", v.dim, "; its elements must lie apart");
}

}  // namespace hsattn
