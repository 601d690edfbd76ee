// Perplexity on held-out text. No torch in this header.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "hsattn/base/types.h"

namespace hsattn::lm {

class Transformer;
class TextUnits;
class TokenFile;

struct EvalResult {
  Index windows = 0, context = 0, tokens = 0;
  Index bytes = 0, words = 0;    ///< that the predicted tokens stand for; 0 if not counted
  double loss = 0;               ///< nats per token, all positions
  double loss_last_quarter = 0;  ///< positions with at least 3/4 of the context behind them
  double attended_tokens = 0;    ///< 0 if not measured
  double attention_share = 0;
  double forward_ms = 0;  ///< median time of one window, batch 1
  double tokens_per_s = 0;
  bool interrupted = false;  ///< then the other numbers mean nothing
};

/// Reads at most `limit` windows (0: all), evenly spread, one at a time. `units` counts bytes and words.
EvalResult evaluate_model(Transformer& model, const TokenFile& text, Index context, Index limit, bool bf16,
                          const std::atomic<bool>& interrupted,
                          const std::function<void(Index done, Index all)>& progress = {},
                          const TextUnits* units = nullptr);

}  // namespace hsattn::lm
