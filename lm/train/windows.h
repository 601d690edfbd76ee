// The windows of each training step: of the text, short ones at first if asked, and random ones that teach to copy
// before that. No torch here.
#pragma once

#include <cstdint>
#include <vector>

#include "lm/data/batches.h"
#include "lm/data/token_file.h"
#include "lm/train/options.h"

namespace hsattn::lm {

struct Windows {
  Index count = 0, context = 0;
  std::vector<Index> starts;         ///< where they begin in the text; none of random tokens
  std::vector<std::int64_t> tokens;  ///< [count, context + 1]: inputs, and the last one's target
};

/// A function of options and step alone, so that a run that is resumed goes on bit by bit. Both lengths walk the text
/// from its start, each in an order of its own.
class StepWindows {
 public:
  /// Both outlive this. Throws InvalidArgument if the text is shorter than a window.
  StepWindows(const TokenFile& text, const TrainOptions& options);

  /// Of the step behind `steps` others.
  Windows after(Index steps) const;

 private:
  void read(Windows& windows, Index steps) const;
  void draw(Windows& windows, Index steps) const;

  const TokenFile& text_;
  const TrainOptions& options_;
  BatchOrder order_, short_order_;
};

}  // namespace hsattn::lm
