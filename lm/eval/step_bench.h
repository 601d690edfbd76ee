// A whole training step with different attentions: checked, then timed, in one process, turn by turn. No torch in this
// header.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "lm/model/config.h"

namespace hsattn::lm {

struct StepBenchOptions : Options {
  std::string lengths = "8192";
  std::string attentions = "hsa,sdpa,standard,full";
  ModelConfig model;  ///< its attention's budgets are those of `hsa`; its attention's name is not used
  Index batch = 1;
  std::string text;
  bool checkpointing = false;
  bool forward = false;
  Index threads = 1;
  Index repeats = 3;
  Index seed = 1;
  bool json = false;

  void visit(OptionVisitor& option) override {
    option("lengths", lengths, "tokens of a sequence; several, separated by commas, are taken one after the other");
    option(
        "attention", attentions,
        "which to compare, by the names that `train` knows, separated by commas; with options of its own after colons: "
        "hsa:levels=3:far_field=false");
    option("layers", model.layers, "blocks of attention and SwiGLU");
    option("width", model.width, "size of the residual stream");
    option("heads", model.heads, "query heads");
    option("kv_heads", model.kv_heads, "key and value heads, a divisor of heads; 0: as many as heads");
    option("taps", model.taps,
           "tokens that a causal convolution of queries and keys spans, each channel by itself; 0 or 1: none");
    option("vocabulary", model.vocabulary, "tokens that the embedding knows; 256 for bytes");
    option("batch", batch, "sequences");
    option("text", text, "a text, .gz, .jsonl or token file, whose start is read; without it random bytes");
    option("checkpointing", checkpointing, "recompute each block in backward, with every attention: less memory");
    option("forward", forward, "time a forward pass without gradient, too: what reading a text costs");
    option("threads", threads, "0: all processors");
    option("repeats", repeats, "timings of each, taken in turn; the median counts");
    option("seed", seed, "of the weights and of random bytes");
    option("json", json, "print one JSON object");
    model.attention.visit_budgets(option);
  }
  void apply_preset() override { model.apply_preset(); }
};

/// One attention at one length. Times in milliseconds, all of the step whose time is the median.
struct StepBenchRow {
  Index length = 0;
  std::string attention;                    ///< as it was named, with its options
  double needs_gib = 0, available_gib = 0;  ///< memory: estimated, and found before the first step
  bool fits = true;                         ///< if not, it did not run, and nothing below means anything
  double step = 0;                          ///< forward, loss, backward, clipping, AdamW
  double in_attention = 0;                  ///< of it, from q, k, v to the output, forward and backward
  double in_optimizer = 0;                  ///< of it, AdamW
  double forward = 0;                       ///< a forward pass without gradient; 0 if not asked for
  std::vector<double> steps, forwards;      ///< every timing, in order
  double peak_memory_mib = 0;               ///< of the process during a step; 0 where the kernel does not tell
  double step_memory_mib = 0;               ///< of it, what the step took besides weights and moments
  double attended_tokens = 0;               ///< per position; pooled nodes not counted
  double loss = 0;                          ///< nats per token, of the first step
  double loss_error = 0;                    ///< |loss - that of SDPA| as a share of it
  double gradient_error = 0;                ///< |gradient - that of SDPA| as a share of it, all weights as one vector
};

/// Throws InvalidArgument, naming the option.
void check_step_bench_options(const StepBenchOptions& options);

/// Row by row in the order of lengths, then of `attentions`. Stops early, with the lengths so far, once `interrupted`.
/// Every step starts from the same weights and reads the same tokens. Throws Error if an answer is wrong, and then
/// nothing is timed; FileError for the text.
std::vector<StepBenchRow> bench_step(const StepBenchOptions& options, const std::atomic<bool>& interrupted,
                                     const std::function<void(const std::string&)>& progress);

}  // namespace hsattn::lm
