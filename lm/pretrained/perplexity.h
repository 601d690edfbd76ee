// How well a pretrained model predicts a text. No torch here.
#pragma once

#include <atomic>
#include <functional>

#include "lm/eval/paired.h"
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

/// `count` windows of `context` inputs and targets, [context + 1] each, spread evenly over a text, none with a token of
/// another but its last target. Throws FileError: the text is too short.
std::vector<std::vector<Token>> windows_of_text(const Runtime& runtime, const std::string& path, Index context,
                                                Index count);

/// By which share perplexity differs where windows have the mean losses `ours` rather than `theirs`, paired over them;
/// half is that of the upper side.
Interval change_of_perplexity(std::span<const double> ours, std::span<const double> theirs);

/// Windows of `context` inputs and targets, spread evenly over the text, each read from its own start.
PerplexityReport measure_perplexity(Runtime& runtime, const PretrainedEvalOptions& options,
                                    const std::atomic<bool>& interrupted,
                                    const std::function<void(Index, Index)>& progress);

/// Throws InvalidArgument, naming the option.
void check_perplexity_options(const PretrainedEvalOptions& options);

}  // namespace hsattn::lm
