// What HSA finds of the true attention of a model's heads, beside what an oracle would find with the same budget. No
// torch in this header.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "lm/eval/spans.h"
#include "lm/model/config.h"

namespace hsattn::lm {

struct PatternsOptions : Options {
  std::string model;
  std::string text;
  Index context = 2048;
  Index positions = 64;
  Index explore = 0;
  Index threads = 0;
  bool json = false;
  AttentionOptions attention;

  void visit(OptionVisitor& option) override {
    option("model", model, "a run folder (its newest checkpoint), a checkpoint, or a .safetensors file");
    option("text", text, "a text, .gz, .jsonl or token file; its first document is read");
    option("context", context, "tokens of the text, from its start");
    option("positions", positions, "positions that are measured, evenly spread");
    option("explore", explore, "positions of which every weight is kept, for the report's explorer");
    option("threads", threads, "0: all processors");
    option("json", json, "print one JSON object instead of the table");
    attention.visit(option);
  }
  void apply_preset() override { attention.apply_preset(); }
};

/// Bin i counts distances 2^i - 1 to 2^(i+1) - 2 tokens: 0, 1-2, 3-6, ...
constexpr std::size_t kDistanceBins = 21;

/// One head; means over the measured positions. Mass: share of the softmax of full attention.
struct HeadPatterns {
  Index layer = 0, head = 0;
  double mass = 0;              ///< on tokens that HSA attends one by one
  double oracle_blocks = 0;     ///< on the near window and as many blocks, the heaviest
  double oracle_tokens = 0;     ///< on as many tokens, the heaviest
  double tokens_for_95 = 0;     ///< tokens of the near window and the heaviest blocks that hold 95 %
  double attended = 0;          ///< tokens that HSA attends one by one
  double attended_last = 0;     ///< at the last position
  double error = 0;             ///< |o - o_full| / |o_full|
  double near = 0, blocks = 0;  ///< shares of HSA's own softmax
  std::vector<double> far;      ///< by level
  std::vector<double> true_by_distance, held_by_distance;  ///< [kDistanceBins] mass, and the part that HSA attends
  double sentence = 0, paragraph = 0;  ///< mass on a first token of one, as a multiple of that on any token
};

/// What HSA holds with another budget: means over all heads and positions.
struct BudgetPoint {
  Index top_k = 0;
  double attended = 0, mass = 0, least_mass = 0;  ///< least: of the head that has the least
};

/// One row for the explorer.
struct ExploredRow {
  Index layer = 0, head = 0, position = 0;
  std::vector<double> weights;  ///< [position + 1] full attention
  std::vector<Span> spans;      ///< what HSA attends
  std::vector<double> shares;   ///< [spans] of its softmax
};

struct PatternsReport {
  std::string model_file, trained_with;
  std::vector<std::string> text;  ///< [tokens] what each token stands for, which need not be valid UTF-8
  bool bytes = true;              ///< tokens are bytes
  Index tokens = 0, block = 0;
  std::vector<HeadPatterns> heads;
  std::vector<BudgetPoint> budgets;
  std::vector<ExploredRow> rows;
  bool interrupted = false;
};

/// Throws InvalidArgument, FileError, Unsupported.
PatternsReport measure_patterns(const PatternsOptions& options, const std::atomic<bool>& interrupted);

}  // namespace hsattn::lm
