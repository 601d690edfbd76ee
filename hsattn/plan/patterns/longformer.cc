// Longformer (Beltagy et al. 2020, https://arxiv.org/abs/2004.05150): a sliding window, dilated on request, and global
// tokens, which are the sinks. With blocks of one token, window 0 and dilation d a position p attends the tokens
// p - d, p - 2d, ...; a near window is what lies in between without gaps, and the dilated one begins behind it.
#include "hsattn/base/math.h"
#include "hsattn/plan/patterns/patterns.h"

namespace hsattn {
namespace {

// Appends the blocks begin + step, begin + 2 step, ... `count` of them, as far as they lie in `range`.
void add_steps(Index begin, Index step, Index count, Range range, Blocks& out) {
  for (Index i = 0; i < count; ++i) {
    begin += step;
    if (range.contains(begin)) {
      out.push_back(static_cast<std::int32_t>(begin));
    } else if (step < 0 ? begin < range.begin : begin >= range.end) {
      return;
    }
  }
}

}  // namespace

// Bidirectional: half of the budget on each side.
void list_longformer(const Place& place, const HsaOptions& options, Index most, Blocks& out) {
  const bool both_sides = place.bidirectional;
  add_steps(place.first_near, -options.dilation, both_sides ? ceil_div(most, 2) : most, place.left, out);
  if (both_sides) add_steps(place.last_near, options.dilation, most / 2, place.right, out);
}

}  // namespace hsattn
