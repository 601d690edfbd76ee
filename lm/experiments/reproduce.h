// Runs a list of runs, one child process each, and leaves a result file of each: goes on where it was. No torch here.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "lm/experiments/results.h"
#include "lm/experiments/run_list.h"

namespace hsattn::lm {

enum class RunState { kWaiting, kBegun, kOutdated, kDone };

struct PlannedRun {
  ExperimentRun run;
  RunState state = RunState::kWaiting;
  double minutes = 0;  ///< expected, or taken if it is done
};

/// Every run with its state in the folder, in the order in which they run.
std::vector<PlannedRun> plan_of_runs(const RunList& list, const ResultFolder& folder);

class ReproduceObserver {
 public:
  virtual ~ReproduceObserver() = default;
  /// Before a run; `left` minutes are expected for it and all behind it.
  virtual void on_run(std::size_t number, std::size_t all, const PlannedRun& run, double left) = 0;
  virtual void on_tick(const PlannedRun& run, double minutes, double left) = 0;
  virtual void on_done(const PlannedRun& run, double minutes) = 0;
  virtual void on_failure(const PlannedRun& run, const std::string& why) = 0;
};

struct ReproduceOptions {
  std::string preset;
  bool keep_going = false;             ///< after a failed run, go on with those that do not need it
  nlohmann::ordered_json environment;  ///< of every result: commit, processor, instruction set, torch
};

struct ReproduceResult {
  std::size_t done = 0, failed = 0, skipped = 0;  ///< of this call; skipped: need one that failed
  bool interrupted = false;
};

/// Throws FileError if the folder cannot be written, is in use by another call, or holds what is no result.
ReproduceResult reproduce(const RunList& list, const ResultFolder& folder, const ReproduceOptions& options,
                          const std::atomic<bool>& interrupted, ReproduceObserver& observer);

}  // namespace hsattn::lm
