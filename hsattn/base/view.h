// Views of tensors: a pointer, a shape and strides; they own nothing.
#pragma once

#include "hsattn/base/types.h"

namespace hsattn {

/// A tensor [batch, heads, tokens, dim]. Strides count elements; elements of one token are adjacent (stride 1).
template <class Pointer>
struct BasicView {
  Pointer data = nullptr;
  DType dtype = DType::kFloat32;
  Index batch = 0, heads = 0, tokens = 0, dim = 0;
  Index batch_stride = 0, head_stride = 0, token_stride = 0;

  Index elements() const { return batch * heads * tokens * dim; }
};

using ConstView = BasicView<const void*>;
using View = BasicView<void*>;

inline ConstView as_const(const View& v) {
  return {v.data, v.dtype, v.batch, v.heads, v.tokens, v.dim, v.batch_stride, v.head_stride, v.token_stride};
}

/// A contiguous view of `data`, laid out [batch, heads, tokens, dim].
template <class Pointer>
BasicView<Pointer> contiguous_view(Pointer data, DType dtype, Index batch, Index heads, Index tokens, Index dim) {
  return {data, dtype, batch, heads, tokens, dim, heads * tokens * dim, tokens * dim, dim};
}

/// Keys and values of the nodes of a pyramid, or gradients of them: [batch, kv_heads, nodes of all levels, dim], levels
/// one after another, blocks first, of node_type().
template <class AnyView>
struct BasicNodes {
  AnyView k, v;
};
using Nodes = BasicNodes<View>;
using ConstNodes = BasicNodes<ConstView>;

/// Rows [tokens, dim] of one head: what a kernel works on.
template <class T>
struct Rows {
  T* data = nullptr;
  Index count = 0, dim = 0, stride = 0;

  T* row(Index i) const { return data + i * stride; }
};

/// The rows of one head of a view whose dtype is known to be T.
template <class T, class Pointer>
Rows<T> rows_of(const BasicView<Pointer>& v, Index batch, Index head) {
  auto* base = static_cast<T*>(v.data) + batch * v.batch_stride + head * v.head_stride;
  return {base, v.tokens, v.dim, v.token_stride};
}

}  // namespace hsattn
