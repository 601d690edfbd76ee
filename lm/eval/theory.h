// Theorem 1 (docs/theory.md) held against rows of attention: random ones, or those of a trained model. No torch in this
// header.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "lm/experiments/pooled_error.h"
#include "lm/options/option_visitor.h"

namespace hsattn::lm {

struct TheoryOptions : Options {
  Index cases = 10000;
  std::string model;
  std::string text;
  Index context = 2048;
  Index seed = 1;
  Index threads = 0;
  bool json = false;

  void visit(OptionVisitor& option) override {
    option("cases", cases, "rows of attention to check");
    option("model", model, "take the rows from this model's heads, with the far field of its HSA; else random ones");
    option("text", text, "with --model: a text, .gz, .jsonl or token file that it reads");
    option("context", context, "with --model: tokens of the text");
    option("seed", seed, "of random rows");
    option("threads", threads, "0: all processors");
    option("json", json, "print one JSON object");
  }
};

struct TheoryCase {
  Index tokens = 0;
  PooledError result;
};

/// Throws InvalidArgument, FileError, Unsupported. Fewer cases than asked for if interrupted.
std::vector<TheoryCase> theory_cases(const TheoryOptions& options, const std::atomic<bool>& interrupted);

}  // namespace hsattn::lm
