// What all calls on several sequences share: views of one of them, rows of none, sequences side by side.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <type_traits>

#include "hsattn/base/executor.h"
#include "hsattn/base/view.h"
#include "hsattn/plan/sequences.h"

namespace hsattn {

/// Tokens `tokens` of one batch element.
template <class Pointer>
BasicView<Pointer> part_of(const BasicView<Pointer>& whole, Index batch, Range tokens) {
  using Byte = std::conditional_t<std::is_same_v<Pointer, void*>, std::byte, const std::byte>;
  BasicView<Pointer> part = whole;
  part.batch = 1;
  part.tokens = tokens.size();
  if (part.elements() == 0) return part;
  const Index first = batch * whole.batch_stride + tokens.begin * whole.token_stride;
  part.data = static_cast<Byte*>(whole.data) + first * size_of(whole.dtype);
  return part;
}

/// Fills rows with zeros.
void clear_rows(const View& view, std::span<const BatchRange> rows);

/// lse [batch, heads, queries] of rows that see nothing becomes -inf; `lse` may be null.
void clear_lse(void* lse, const ConstView& q, std::span<const BatchRange> rows);

/// Calls body for each sequence, with the executor for its inside: some one after another, the others side by side, the
/// longest first. `heads` is how many tasks its queries can be at once.
void for_each_sequence(std::span<const Sequence> sequences, Index heads, Executor& executor,
                       const std::function<void(std::size_t sequence, Executor&)>& body);

}  // namespace hsattn
