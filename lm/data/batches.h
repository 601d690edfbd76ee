// Which windows of a token file a step reads: a function of (seed, step) alone, so resuming needs no state.
#pragma once

#include <cstdint>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// A pseudo-random permutation of [0, size): Feistel network with cycle walking, no memory.
Index permuted(Index i, Index size, std::uint64_t key);

/// Walks a file of `tokens` tokens in windows of `context` inputs and their targets (one token further). An epoch
/// shifts all windows by a random offset and shuffles them, so that each epoch reads each token about once.
class BatchOrder {
 public:
  /// `aligned`: no shift, windows begin at multiples of `context`.
  /// Throws InvalidArgument if the file is shorter than one window and its target.
  BatchOrder(Index tokens, Index context, Index seed, bool aligned = false);

  /// First tokens of the `count` windows that start at the window number `first` of the run.
  std::vector<Index> windows(Index first, Index count) const;
  Index windows_per_epoch() const { return windows_; }

 private:
  Index tokens_, context_, windows_;
  std::uint64_t seed_;
  bool aligned_;
};

/// First tokens of at most `limit` windows (0: all) of `context` inputs and targets, spread evenly over a file.
std::vector<Index> even_windows(Index tokens, Index context, Index limit);

}  // namespace hsattn::lm
