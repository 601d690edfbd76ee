// Attention alone against PyTorch's SDPA: checked, then timed, in one process, turn by turn. No torch in this header.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "lm/model/config.h"

namespace hsattn::lm {

struct BenchOptions : Options {
  std::string lengths = "4096,8192,16384";
  Index batch = 1;
  Index heads = 4;
  Index kv_heads = 0;
  Index dim = 64;
  Index threads = 1;
  Index repeats = 3;
  std::string queries = "correlated";
  bool backward = true;
  Index seed = 1;
  bool json = false;
  AttentionOptions attention;

  void visit(OptionVisitor& option) override {
    option("lengths", lengths, "sequence lengths in tokens, separated by commas");
    option("pattern", attention.attention, "hsa | full | local");
    attention.visit_budgets(option);
    option("batch", batch, "sequences");
    option("heads", heads, "query heads");
    option("kv_heads", kv_heads, "key and value heads; 0: as many as heads");
    option("dim", dim, "head dimension");
    option("threads", threads, "0: all processors");
    option("repeats", repeats, "timings of each, taken in turn; the median counts");
    option("queries", queries,
           "correlated (neighbours 0.99, as in real models) | random | NAME_q.npy with NAME_k, NAME_v");
    option("backward", backward, "time forward and backward, too");
    option("seed", seed, "of the tensors");
    option("json", json, "print one JSON object");
  }
  void apply_preset() override { attention.apply_preset(); }
};

/// Times in milliseconds, medians.
struct BenchRow {
  Index length = 0;
  double plan = 0;  ///< choosing lists alone: part of `forward`
  double forward = 0, sdpa_forward = 0;
  double both = 0, sdpa_both = 0;  ///< forward and backward; 0 if not asked for
  double attended_tokens = 0;      ///< per position; pooled nodes not counted
  double error_forward = 0;        ///< largest error against double, as a share of the largest value
  double error_backward = 0;
};

/// Throws InvalidArgument, naming the option.
void check_bench_options(const BenchOptions& options);

/// Stops early, with the rows so far, once `interrupted`. Throws Error if an answer is wrong: nothing wrong is timed.
std::vector<BenchRow> bench_attention(const BenchOptions& options, const std::atomic<bool>& interrupted,
                                      const std::function<void(const std::string&)>& progress);

}  // namespace hsattn::lm
