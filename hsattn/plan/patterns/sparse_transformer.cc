// Sparse Transformer (Child et al. 2019, https://arxiv.org/abs/1904.10509), both forms as one "merged" head: a position
// attends the union of what the paper's two factorised heads attend. With blocks of one token and stride l it attends,
// besides the near window,
//   strided   the tokens j for which (p - j) mod l = 0
//   fixed     the tokens j of its own segment, floor(j / l) = floor(p / l), and the summaries, j mod l = l - 1 (the
//             paper's c is one block)
// If the budget does not hold them all, the nearest are listed.
#include <algorithm>
#include <bit>

#include "hsattn/base/math.h"
#include "hsattn/plan/patterns/patterns.h"

namespace hsattn {
namespace {

Columns summaries(Index stride) { return {stride, stride - 1}; }

// The smallest stride with which a budget of `most` columns reaches from one end of the past to the other.
Index smallest_stride(const Place& place, Index most) { return std::max<Index>(1, ceil_div(place.past(), most)); }

// The columns, and of what they leave of the budget the blocks nearest the near window: always the whole budget.
void add_columns_and_nearest(const Place& place, const Columns& columns, Index most, Blocks& out) {
  add_nearest(place, columns, nullptr, most, out);
  add_nearest(place, {}, &columns, most, out);
}

void add_segment_and_summaries(const Place& place, Index stride, Index most, Blocks& out) {
  const Index begin = floor_div(place.own, stride) * stride, end = begin + stride;
  Place inside = place, outside = place;
  inside.left.begin = std::clamp(begin, place.left.begin, place.left.end);
  outside.left.end = inside.left.begin;
  inside.right.end = std::clamp(end, place.right.begin, place.right.end);
  outside.right.begin = inside.right.end;
  add_nearest(inside, {}, nullptr, most, out);
  add_nearest(outside, summaries(stride), nullptr, most, out);
}

}  // namespace

void list_strided(const Place& place, const HsaOptions& options, Index most, Blocks& out) {
  if (options.stride > 0) {
    add_nearest(place, {ceil_div(options.stride, place.block), place.own}, nullptr, most, out);
  } else {
    add_columns_and_nearest(place, {smallest_stride(place, most), place.own}, most, out);
  }
}

// Without a given stride it is a power of two, so that the summaries of a long past are among those of a shorter one.
void list_fixed(const Place& place, const HsaOptions& options, Index most, Blocks& out) {
  if (options.stride > 0) {
    add_segment_and_summaries(place, ceil_div(options.stride, place.block), most, out);
  } else {
    const auto stride = std::bit_ceil(static_cast<std::uint64_t>(smallest_stride(place, most)));
    add_columns_and_nearest(place, summaries(static_cast<Index>(stride)), most, out);
  }
}

}  // namespace hsattn
