// Memory for kernels: aligned, not initialised, and OutOfMemory with the size when it cannot be had.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
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

/// One allocation that holds several arrays, each aligned to 64 bytes, values undefined: a short call spends much of
/// its time on allocations. `describe` is called twice with an object that says `take(pointer, count)` for each array;
/// its first call adds up sizes, its second sets the pointers. `what` names the whole in the error.
///
/// Under the address sanitizer each array is an allocation of its own, so that a step over its end is found.
class Slab {
 public:
  Slab() = default;
  template <class Describe>
  Slab(const char* what, const Describe& describe) {
    Taker sizes;
    describe(sizes);
    std::byte* base = nullptr;
#if !defined(__SANITIZE_ADDRESS__)
    // Not aligned_alloc, which takes several times as long for small memory.
    const auto bytes = static_cast<std::size_t>(sizes.used + kAlignment);
    memory_.reset(static_cast<std::byte*>(std::malloc(bytes)));
    if (memory_ == nullptr) throw OutOfMemory(concat(what, ": no memory for ", sizes.used, " bytes"));
    base = memory_.get() + (-reinterpret_cast<std::uintptr_t>(memory_.get()) & (kAlignment - 1));
#endif
    Taker arrays;
    arrays.base = base;
    arrays.what = what;
    arrays.slab = this;
    describe(arrays);
  }

  struct Taker {
    std::byte* base = nullptr;
    Index used = 0;  // bytes
    const char* what = nullptr;
    Slab* slab = nullptr;  // null while sizes are added up

    template <class T>
    void operator()(T*& pointer, Index count) {
      const Index bytes = std::max<Index>(count, 1) * static_cast<Index>(sizeof(T));
      if (slab != nullptr) pointer = reinterpret_cast<T*>(place(bytes));
      used += round_up(bytes, kAlignment);
    }

   private:
    std::byte* place([[maybe_unused]] Index bytes) const {
#if defined(__SANITIZE_ADDRESS__)
      slab->apart_.push_back(allocate_buffer<std::byte>(bytes, what));
      return slab->apart_.back().get();
#else
      return base + used;
#endif
    }
  };

 private:
  Buffer<std::byte> memory_;
  std::vector<Buffer<std::byte>> apart_;  // in its place
};

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
