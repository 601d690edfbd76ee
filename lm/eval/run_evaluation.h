// `hsattn eval`: a model file, a text file, a report. No torch in this header.
#pragma once

#include "lm/eval/evaluate.h"
#include "lm/eval/options.h"

namespace hsattn::lm {

struct EvalReport {
  EvalResult result;
  std::string model_file, data_file, precision;
  AttentionOptions attention;
  double peak_memory_mib = 0;
};

/// Throws InvalidArgument, naming the option, for what can be told before files are read.
void check_eval_options(const EvalOptions& options);

/// Throws InvalidArgument, FileError, Unsupported.
EvalReport run_evaluation(const EvalOptions& options, const std::atomic<bool>& interrupted,
                          const std::function<void(Index done, Index all)>& progress);

}  // namespace hsattn::lm
