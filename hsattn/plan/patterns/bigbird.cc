// BigBird (Zaheer et al. 2020, https://arxiv.org/abs/2007.14062): a sliding window, global tokens, which are the sinks,
// and random blocks of the past. As in the paper the positions of a block draw together. The draw is a function of the
// seed, the kv head, the near window's first block and, since it is a draw from the past, how long that is: neither of
// what comes later (causal) nor of how a sequence is cut into calls.
#include <algorithm>

#include "hsattn/plan/patterns/patterns.h"

namespace hsattn {
namespace {

__extension__ using Wide = unsigned __int128;

// The finaliser of SplitMix64 (Steele et al. 2014): each bit of x reaches all others.
std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
  x = (x ^ x >> 27) * 0x94d049bb133111ebU;
  return x ^ x >> 31;
}

// A stream of random numbers for each key.
class Stream {
 public:
  explicit Stream(std::initializer_list<Index> key) {
    for (const Index part : key) state_ = mixed(state_ + kStep + static_cast<std::uint64_t>(part));
  }

  // From 0 to count - 1.
  Index below(Index count) {
    state_ += kStep;
    return static_cast<Index>(static_cast<Wide>(mixed(state_)) * static_cast<std::uint64_t>(count) >> 64);
  }

 private:
  static constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15U;
  std::uint64_t state_ = 0;
};

}  // namespace

// R. Floyd's sampling without replacement: of [0, count) each set of `most` is as likely as any other.
void list_bigbird(const Place& place, const HsaOptions& options, Index most, Blocks& out) {
  const Index count = place.past();
  Stream random{options.pattern_seed, place.kv_head, place.first_near};
  for (Index last = std::max<Index>(0, count - most); last < count; ++last) {
    const auto drawn = static_cast<std::int32_t>(random.below(last + 1));
    const auto at = std::lower_bound(out.begin(), out.end(), drawn);
    if (at == out.end() || *at != drawn) {
      out.insert(at, drawn);
    } else {
      out.push_back(static_cast<std::int32_t>(last));  // above all that were drawn before
    }
  }
  for (std::int32_t& i : out) {
    const Index in_right = i - place.left.size();
    i = static_cast<std::int32_t>(in_right < 0 ? place.left.begin + i : place.right.begin + in_right);
  }
}

}  // namespace hsattn
