// Checks of views, done before anything is read or written. Each throws InvalidArgument; `who` opens the message.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "hsattn/base/view.h"

namespace hsattn {

/// Sizes whose product, also with strides, stays below 2^56, so that no offset overflows; and memory.
void check_view(const char* who, const char* name, const ConstView& v);

/// check_view(), and the shape and type of another view.
void check_same(const char* who, const char* name, const ConstView& found, const char* like, const ConstView& right);

/// The memory that a view spans.
struct Bytes {
  const char* name;
  std::uintptr_t begin, end;
};
Bytes bytes_of(const char* name, const ConstView& v);
/// Of contiguous numbers; none if `data` is null.
Bytes bytes_of(const char* name, const void* data, Index elements, DType type);

/// What is written shares no memory with the others.
void check_apart(const char* who, const Bytes& written, std::initializer_list<Bytes> others);

/// Outputs do not fold onto themselves, as expanded tensors do.
void check_not_folded(const char* who, const char* name, const ConstView& v);

}  // namespace hsattn
