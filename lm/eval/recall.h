// How often a model answers the questions of `hsattn task`. No torch in this header.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "lm/eval/options.h"

namespace hsattn::lm {

struct RecallOptions : Options {
  std::string model;
  std::string data;
  Index context = 512;
  Index answers = 1000;
  std::string precision = "auto";
  Index threads = 0;
  bool json = false;
  AttentionOptions attention;

  RecallOptions() { attention.attention = kAsTrained; }
  void visit(OptionVisitor& option) override {
    option("model", model, "a run folder (its newest checkpoint), a checkpoint, or a .safetensors file");
    option("data", data, "folder written by `hsattn task`");
    option("context", context, "bytes of a sample: --length of the task");
    option("answers", answers, "questions to ask: the first of the held-out samples, the same for every model");
    option("precision", precision, "auto | float32 | bf16");
    option("threads", threads, "0: all processors");
    option("json", json, "print one JSON object");
    attention.visit(option);
  }
  void apply_preset() override { attention.apply_preset(); }
};

struct RecallReport {
  std::string model_file, attention;
  std::vector<bool> right;       ///< [answers] all bytes of the answer are the likeliest ones, one after the other
  std::vector<Index> distances;  ///< [answers] from question to fact, tokens
  Index bytes = 0, right_bytes = 0;
  bool interrupted = false;
};

/// Throws InvalidArgument, naming the option; FileError for files and for too few questions.
RecallReport measure_recall(const RecallOptions& options, const std::atomic<bool>& interrupted,
                            const std::function<void(Index done, Index all)>& progress);

}  // namespace hsattn::lm
