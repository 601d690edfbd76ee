// Ways to attend beside each other on one pretrained model: what they cost in quality, what they gain. No torch here.
#pragma once

#include <atomic>

#include "lm/eval/paired.h"
#include "lm/pretrained/allocation.h"
#include "lm/pretrained/runtime.h"
#include "lm/pretrained/steps.h"

namespace hsattn::lm {

struct CompareOptions : PretrainedOptions {
  std::vector<std::string> text;
  std::string rows = "full,sdpa,local,hsa";
  Index context = 4096;
  Index windows = 4;
  Index answers = 1000;
  Index numbers = 16;
  Index positions = 32;
  bool speed = true;
  Index decode = 64;
  Index repeats = 3;
  Index seed = 0;
  std::string page;
  bool json = false;

  void visit(OptionVisitor& option) override;
};

/// Perplexity of a text, and by which share it differs from full attention's, paired over windows.
struct TextRow {
  double perplexity = 0, perplexity_last_half = 0;
  Interval change, change_last_half;
};

/// Digits of answers that were the likeliest tokens; the difference from full attention's share is paired over samples.
struct RecallRow {
  Index digits = 0, right = 0, samples = 0;
  Interval difference;

  double share() const { return digits == 0 ? 0 : static_cast<double>(right) / static_cast<double>(digits); }
};

struct CompareRow {
  std::string name;
  AttendedShare attended;  ///< by the rules, or, with a mass budget, measured where `mass` is; if it is not, the most
  double mass = 1;         ///< share of full attention's probability that is held; 1 if not measured
  std::vector<TextRow> texts;
  TextRow all_texts;  ///< over the windows of all texts
  RecallRow pass_key, numbers;
  double prefill_tokens_per_s = 0, decode_tokens_per_s = 0;  ///< 0 if not measured; the middle of the repeats
  double cache_mib = 0, peak_mib = 0;  ///< keys and values after it; largest memory of the process meanwhile
};

struct CompareReport {
  std::vector<std::string> texts;
  std::vector<CompareRow> rows;  ///< the first is `full`
  bool interrupted = false;      ///< then the other fields mean nothing
};

/// Throws InvalidArgument, naming the option.
void check_compare_options(const CompareOptions& options);

/// Options of each layer for the row `name`: of `hsa`, as the model and the command line say; of another pattern, the
/// same budgets; of `local` a window of as many tokens as the layer's window, sinks and top_k. Layers with a sliding
/// window keep it in all rows, as do layers that attend everything in `hsa`.
std::vector<AttentionOptions> layers_of_row(const std::string& name, const PretrainedConfig& config,
                                            const std::vector<AttentionOptions>& hsa);

/// How many samples of each kind ask for about `answers` digits: a fifth of them for pass keys, one in a sample.
struct RecallCounts {
  Index pass_keys = 0, numbers = 0;
};
RecallCounts recall_counts(Index answers, Index numbers);

/// Throws FileError: texts too short.
CompareReport compare_attention(Runtime& runtime, const CompareOptions& options, const std::atomic<bool>& interrupted,
                                const ProgressFunction& progress);

}  // namespace hsattn::lm
