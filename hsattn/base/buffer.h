// Memory for kernels: aligned, not initialised, and OutOfMemory with the size when it cannot be had.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/base/types.h"

namespace hsattn {

constexpr Index kAlignment = 64;  // bytes: one cache line, one AVX-512 vector

struct FreeBuffer {
  void operator()(void* memory) const { std::free(memory); }
};

template <class T>
using Buffer = std::unique_ptr<T[], FreeBuffer>;

/// `count` elements of T, aligned to 64 bytes, values undefined. `what` names them in the error.
template <class T>
Buffer<T> allocate_buffer(Index count, const char* what) {
  const Index bytes = round_up(std::max<Index>(count, 1) * static_cast<Index>(sizeof(T)), kAlignment);
  void* memory = std::aligned_alloc(kAlignment, static_cast<std::size_t>(bytes));
  if (memory == nullptr) throw OutOfMemory(concat(what, ": no memory for ", bytes, " bytes"));
  return Buffer<T>(static_cast<T*>(memory));
}

/// A vector of `count` zeros.
template <class T>
std::vector<T> allocate_vector(Index count, const char* what) {
  try {
    return std::vector<T>(static_cast<std::size_t>(count));
  } catch (const std::exception&) {
    throw OutOfMemory(concat(what, ": no memory for ", count * static_cast<Index>(sizeof(T)), " bytes"));
  }
}

/// Calls body. Large memory is asked for, and refused, by its size; where what grows step by step (`what`) finds none,
/// that ends here, as an OutOfMemory of `who`.
template <class Body>
void with_memory_errors(const char* who, const char* what, const Body& body) {
  try {
    body();
  } catch (const std::bad_alloc&) {
    throw OutOfMemory(concat(who, ": no memory for ", what, " that had to grow"));
  }
}

}  // namespace hsattn
