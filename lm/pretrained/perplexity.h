// How well a pretrained model predicts a text. No torch here.
#pragma once

#include <atomic>
#include <functional>

#include "lm/pretrained/generate_options.h"
#include "lm/pretrained/runtime.h"

namespace hsattn::lm {

struct PerplexityReport {
  std::vector<double> losses;  ///< [windows, context], nats, window by window
  Index windows = 0, context = 0;
  Index bytes = 0;  ///< of the predicted tokens
  double seconds = 0;
  bool interrupted = false;

  double loss() const;            ///< mean over all positions
  double loss_last_half() const;  ///< over the last half of each window
  double loss_per_byte() const;
};

/// Tokens of all documents of a file or folder, one behind the other. Throws FileError.
std::vector<Token> tokens_of_text(const Runtime& runtime, const std::string& path);

/// Windows of `context` inputs and targets, spread evenly over the text, each read from its own start.
PerplexityReport measure_perplexity(Runtime& runtime, const PretrainedEvalOptions& options,
                                    const std::atomic<bool>& interrupted,
                                    const std::function<void(Index, Index)>& progress);

/// Throws InvalidArgument, naming the option.
void check_perplexity_options(const PretrainedEvalOptions& options);

}  // namespace hsattn::lm
