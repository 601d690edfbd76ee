// Attention alone against PyTorch's SDPA: checked, then timed, in one process, turn by turn. No torch in this header.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "lm/eval/bench_cases.h"

namespace hsattn::lm {

/// Beyond so many tokens SDPA is timed on the first so many, and its time extrapolated by n^2.
constexpr Index kLongestSdpa = 32768;

/// Times in milliseconds, medians.
struct BenchRow {
  BenchCase which;
  std::string skipped;         ///< why it did not run; empty if it did
  Index threads = 1;           ///< that ran
  Index turns = 0;             ///< timings of each
  double ours = 0, sdpa = 0;   ///< sdpa: 0 if not asked for
  bool extrapolated = false;   ///< sdpa, from kLongestSdpa
  double one_thread = 0;       ///< ours with one thread, for the table's rows with several; 0: not timed
  double plan = 0;             ///< choosing lists alone; forward of `hsa` beside SDPA only
  double attend = 0;           ///< attention with a plan given; packing is part of both
  double gflops = 0;           ///< `full` only: 4 d operations for each query and key it may see, 10 d more in backward
  double memory = 0;           ///< beyond inputs and outputs, as a multiple of them; 0: unknown, or too small to tell
  double attended_tokens = 0;  ///< per position; pooled nodes not counted
  double error = 0;            ///< largest error against double, as a share of the largest value
  double allowed_error = 0;
};

/// Rows in the order of `cases`. Stops early, with the rows so far, once `interrupted`. Throws Error if an answer is
/// wrong: nothing wrong is timed.
std::vector<BenchRow> bench_attention(const std::vector<BenchCase>& cases, Index repeats,
                                      const std::atomic<bool>& interrupted,
                                      const std::function<void(const std::string&)>& progress);

}  // namespace hsattn::lm
