// Training of one model on one data folder, from a run folder and back into it. No torch in this header.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "lm/eval/evaluate.h"
#include "lm/train/options.h"

namespace hsattn::lm {

/// Numbers of one step; what a line of metrics.jsonl holds.
struct StepMetrics {
  Index step = 0;
  Index tokens = 0;            ///< read so far in the whole run
  double loss = 0;             ///< nats per token, which is per byte
  double tokens_per_s = 0;     ///< of this step
  double peak_memory_mib = 0;  ///< of the process so far
  double attention_share = 0;  ///< of the step's time
  double attended_tokens = 0;  ///< per position, on average over the step's layers
  double learning_rate = 0;
  double gradient_norm = 0;  ///< before clipping
  double elapsed_s = 0;      ///< training time of the whole run, evaluation included
};

enum class TrainEnd { kFinished, kStopped, kInterrupted, kNotFinite };

struct TrainResult {
  TrainEnd end = TrainEnd::kFinished;
  StepMetrics last;
  bool evaluated = false;
  EvalResult evaluation;       ///< of the end, on held-out text
  double tokens_per_s = 0;     ///< median over the steps of this process, the first one left out
  double attention_share = 0;  ///< the same
  std::string precision;
  std::string report;  ///< if the loss was not finite: what happened
};

/// Told what happens; every call on the training thread.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void on_start(const std::string& description) = 0;
  virtual void on_step(const StepMetrics& metrics) = 0;
  virtual void on_evaluation(Index step, const EvalResult& result) = 0;
  virtual void on_checkpoint(Index step, const std::string& path) = 0;
};

/// Trains from step 0 in a new folder, or with `resume` from the newest checkpoint of `options.run`, bit by bit as if
/// it had never stopped (same machine, same threads). Once `interrupted` is set, the step at hand is finished and
/// saved. Throws InvalidArgument for options, FileError for files, Unsupported for what this machine or program cannot
/// do.
TrainResult train(const TrainOptions& options, bool resume, const std::atomic<bool>& interrupted,
                  TrainObserver& observer);

/// The options of the run in a folder. Throws FileError if there is none.
TrainOptions read_run_options(const std::string& run);

}  // namespace hsattn::lm
