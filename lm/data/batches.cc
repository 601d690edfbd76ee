#include "lm/data/batches.h"

#include <algorithm>

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

// splitmix64, by Sebastiano Vigna (public domain).
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

Index permuted(Index i, Index size, std::uint64_t key) {
  int half = 1;  // bits of each half of the Feistel network
  while ((Index{1} << (2 * half)) < size) ++half;
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  auto x = static_cast<std::uint64_t>(i);
  do {  // the network permutes [0, 4^half), at most 4 size; walk until inside
    std::uint64_t left = x >> half, right = x & mask;
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t next = left ^ (mix(right ^ mix(key + round)) & mask);
      left = right;
      right = next;
    }
    x = left << half | right;
  } while (x >= static_cast<std::uint64_t>(size));
  return static_cast<Index>(x);
}

BatchOrder::BatchOrder(Index tokens, Index context, Index seed, bool aligned)
    : tokens_(tokens), context_(context), seed_(mix(static_cast<std::uint64_t>(seed))), aligned_(aligned) {
  check(context > 0 && tokens > context, "training: the text has ", tokens, " tokens; context ", context,
        " needs at least ", context + 1);
  windows_ = std::max<Index>((tokens - context) / context, 1);  // one window less: room for the shift
}

std::vector<Index> BatchOrder::windows(Index first, Index count) const {
  const Index slack = tokens_ - 1 - windows_ * context_;  // the last window's target needs one token more
  std::vector<Index> starts;
  for (Index i = first; i < first + count; ++i) {
    const auto key = mix(seed_ + static_cast<std::uint64_t>(i / windows_));
    const auto shift = aligned_ ? 0 : static_cast<Index>(mix(key) % static_cast<std::uint64_t>(slack + 1));
    starts.push_back(shift + context_ * permuted(i % windows_, windows_, key));
  }
  return starts;
}

std::vector<Index> even_windows(Index tokens, Index context, Index limit) {
  check(context > 0 && tokens > context, "evaluation: the text has ", tokens, " tokens; context ", context,
        " needs at least ", context + 1);
  const Index all = (tokens - 1) / context;
  const Index count = limit > 0 ? std::min(limit, all) : all;
  std::vector<Index> starts;
  for (Index i = 0; i < count; ++i) starts.push_back(i * all / count * context);
  return starts;
}

}  // namespace hsattn::lm
