// Tensors that own their memory, in several layouts; what lies between their rows is poison.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "hsattn/base/elements.h"
#include "hsattn/base/view.h"

namespace hsattn::testing {

/// The type of lse beside tensors of T; see lse_type().
template <class T>
using LseOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// How a tensor [batch, heads, tokens, dim] lies in memory.
///   kContiguous  as it is written
///   kTokenMajor  [batch, tokens, heads, dim], as a projection layer leaves it
///   kPadded      5 unused elements after each token, 7 after each head
enum class Layout { kContiguous, kTokenMajor, kPadded };

template <class T>
constexpr DType type_of() {
  if (std::is_same_v<T, double>) return DType::kFloat64;
  if (std::is_same_v<T, BFloat16>) return DType::kBFloat16;
  return std::is_same_v<T, Float16> ? DType::kFloat16 : DType::kFloat32;
}

template <class T>
struct Tensor {
  Index batch = 0, heads = 0, tokens = 0, dim = 0;
  Index batch_stride = 0, head_stride = 0, token_stride = 0;
  std::vector<T> data;

  Tensor() = default;
  Tensor(Index b, Index h, Index n, Index d, Layout layout = Layout::kContiguous)
      : batch(b), heads(h), tokens(n), dim(d) {
    if (layout == Layout::kTokenMajor) {
      head_stride = d + 3;
      token_stride = h * head_stride;
      batch_stride = n * token_stride;
    } else {
      const bool padded = layout == Layout::kPadded;
      token_stride = d + (padded ? 5 : 0);
      head_stride = n * token_stride + (padded ? 7 : 0);
      batch_stride = h * head_stride;
    }
    data.assign(static_cast<std::size_t>(b * batch_stride), static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
  }

  T* row(Index b, Index h, Index t) { return data.data() + b * batch_stride + h * head_stride + t * token_stride; }
  const T* row(Index b, Index h, Index t) const { return const_cast<Tensor*>(this)->row(b, h, t); }

  View view() {
    return {data.data(), type_of<T>(), batch, heads, tokens, dim, batch_stride, head_stride, token_stride};
  }
  ConstView view() const { return as_const(const_cast<Tensor*>(this)->view()); }

  /// Calls visit(element, batch, head, token, column) for all elements.
  template <class Visit>
  void for_each(Visit visit) {
    for (Index b = 0; b < batch; ++b) {
      for (Index h = 0; h < heads; ++h) {
        for (Index t = 0; t < tokens; ++t) {
          for (Index c = 0; c < dim; ++c) visit(row(b, h, t)[c], b, h, t, c);
        }
      }
    }
  }
  template <class Visit>
  void for_each(Visit visit) const {
    const_cast<Tensor*>(this)->for_each([&](const T& x, Index b, Index h, Index t, Index c) { visit(x, b, h, t, c); });
  }
};

/// The same values in another type and layout.
template <class To, class From>
Tensor<To> converted(const Tensor<From>& from, Layout layout = Layout::kContiguous) {
  Tensor<To> to(from.batch, from.heads, from.tokens, from.dim, layout);
  to.for_each([&](To& x, Index b, Index h, Index t, Index c) {
    x = static_cast<To>(static_cast<double>(from.row(b, h, t)[c]));
  });
  return to;
}

/// `count` heads from `begin` on as a tensor of their own.
template <class T>
Tensor<T> heads_of(const Tensor<T>& from, Index begin, Index count) {
  Tensor<T> to(from.batch, count, from.tokens, from.dim, Layout::kContiguous);
  to.for_each([&](T& x, Index b, Index h, Index t, Index c) { x = from.row(b, begin + h, t)[c]; });
  return to;
}

/// Tokens [begin, end) as a tensor of its own.
template <class T>
Tensor<T> tokens_of(const Tensor<T>& from, Index begin, Index end) {
  Tensor<T> to(from.batch, from.heads, end - begin, from.dim);
  to.for_each([&](T& x, Index b, Index h, Index t, Index c) { x = from.row(b, h, begin + t)[c]; });
  return to;
}

/// Largest absolute difference; infinite if one is NaN or infinite where the other is not the same.
template <class A, class B>
double max_error(const Tensor<A>& a, const Tensor<B>& b) {
  double worst = 0;
  a.for_each([&](const A& x, Index i, Index h, Index t, Index c) {
    const auto p = static_cast<double>(x), q = static_cast<double>(b.row(i, h, t)[c]);
    if (p == q || (std::isnan(p) && std::isnan(q))) return;
    worst = std::isfinite(p) && std::isfinite(q) ? std::max(worst, std::abs(p - q))
                                                 : std::numeric_limits<double>::infinity();
  });
  return worst;
}

/// Largest magnitude that is finite.
template <class T>
double largest_of(const Tensor<T>& tensor) {
  double largest = 0;
  tensor.for_each([&](const T& x, Index, Index, Index, Index) {
    const double magnitude = std::abs(static_cast<double>(x));
    if (std::isfinite(magnitude)) largest = std::max(largest, magnitude);
  });
  return largest;
}

/// Elements of tokens [begin, end) that differ, NaN from everything. 0 and -0 are the same zero: a sum may reach
/// either.
inline Index count_of_moved(const Tensor<float>& a, const Tensor<float>& b, Index begin, Index end) {
  Index count = 0;
  a.for_each([&](const float& x, Index i, Index h, Index t, Index c) {
    if (t >= begin && t < end) count += !(x == b.row(i, h, t)[c]);
  });
  return count;
}

/// Elements of the tokens from `begin` on that are not 0.
inline Index count_of_not_zero(const Tensor<float>& a, Index begin) {
  Index count = 0;
  a.for_each([&](const float& x, Index, Index, Index t, Index) { count += t >= begin && x != 0; });
  return count;
}

template <class T>
bool same_bits(const T* a, const T* b, Index count) {
  return count == 0 || std::memcmp(a, b, static_cast<std::size_t>(count) * sizeof(T)) == 0;
}

template <class T>
bool same_bits(const Tensor<T>& a, const Tensor<T>& b) {
  return a.data.size() == b.data.size() && same_bits(a.data.data(), b.data.data(), std::ssize(a.data));
}

/// True if nothing was written between the rows of a tensor that was made by its constructor.
template <class T>
bool padding_is_untouched(const Tensor<T>& tensor) {
  std::vector<bool> inside(tensor.data.size(), false);
  tensor.for_each([&](const T& x, Index, Index, Index, Index) { inside[&x - tensor.data.data()] = true; });
  for (std::size_t i = 0; i < inside.size(); ++i) {
    if (!inside[i] && !std::isnan(static_cast<float>(tensor.data[i]))) return false;
  }
  return true;
}

}  // namespace hsattn::testing
