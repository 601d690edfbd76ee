// Memory between two forbidden pages, so that a kernel that reads or writes one element too far is stopped.
#pragma once

#include <vector>

#include "support/tensor.h"

namespace hsattn::testing {

/// `bytes` that begin right behind a forbidden page, or end right before one. They, and what is left of their pages,
/// are filled with 0xff: as floating point numbers, NaN.
class Fence {
 public:
  enum class Touching { kFirstPage, kLastPage };

  Fence(Index bytes, Touching side);
  ~Fence();
  Fence(const Fence&) = delete;
  Fence& operator=(const Fence&) = delete;

  void* data() const { return data_; }
  /// True if everything but the bytes marked as used is still 0xff; `used` has one entry for each byte of data().
  bool rest_is_untouched(const std::vector<bool>& used) const;

 private:
  unsigned char* map_ = nullptr;
  unsigned char* data_ = nullptr;
  Index map_bytes_ = 0, bytes_ = 0;
};

/// A tensor in a fence: it ends with the last element of its last row, whatever its strides.
template <class T>
class FencedTensor {
 public:
  /// Shaped and laid out as `like`; holds its values if `copy`, else NaN.
  FencedTensor(const Tensor<T>& like, Fence::Touching side, bool copy)
      : like_(like), fence_(elements_spanned(like) * static_cast<Index>(sizeof(T)), side) {
    if (!copy) return;
    like.for_each([&](const T& x, Index, Index, Index, Index) { data()[&x - like.data.data()] = x; });
  }

  View view() const {
    View v = like_.view();
    v.data = fence_.data();
    return v;
  }
  ConstView const_view() const { return as_const(view()); }

  /// True if the elements have the bits of `right`'s and nothing between, before or behind them was written.
  bool holds_exactly(const Tensor<T>& right) const {
    std::vector<bool> used(static_cast<std::size_t>(elements_spanned(like_)) * sizeof(T), false);
    bool same = true;
    right.for_each([&](const T& x, Index, Index, Index, Index) {
      const Index at = &x - right.data.data();
      same &= same_bits(&x, data() + at, 1);
      std::fill_n(used.begin() + at * static_cast<Index>(sizeof(T)), sizeof(T), true);
    });
    return same && fence_.rest_is_untouched(used);
  }

 private:
  static Index elements_spanned(const Tensor<T>& t) {
    if (t.batch * t.heads * t.tokens * t.dim == 0) return 0;
    return t.row(t.batch - 1, t.heads - 1, t.tokens - 1) + t.dim - t.data.data();
  }
  T* data() const { return static_cast<T*>(fence_.data()); }

  mutable Tensor<T> like_;
  Fence fence_;
};

}  // namespace hsattn::testing
