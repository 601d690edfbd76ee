// What each head of a model attends on a text. No torch in this header.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "lm/eval/options.h"
#include "lm/eval/spans.h"

namespace hsattn::lm {

/// One head, averaged over the measured positions.
struct HeadReport {
  Index layer = 0, head = 0;
  double mass = 0;              ///< share of full attention's probability on tokens that the plan attends one by one
  double distance_full = 0;     ///< mean distance in tokens under full attention
  double distance_held = 0;     ///< the same over the attended tokens
  double near = 0, blocks = 0;  ///< share of the plan's own softmax on the near run, on selected blocks
  std::vector<double> far;      ///< on pooled nodes of 2^level blocks; empty without far field
};

/// One row of the drawing.
struct DrawnRow {
  Index position = 0;
  std::vector<Span> spans;
  std::vector<double> weights;  ///< [spans] share of the row's softmax
};

struct InspectReport {
  Index tokens = 0, block = 0;
  std::string model_file;
  AttentionOptions attention;
  std::vector<HeadReport> heads;  ///< by layer, then head
  Index drawn_layer = 0, drawn_head = 0;
  std::vector<DrawnRow> rows;
  bool interrupted = false;
};

/// Throws InvalidArgument, naming the option, for what can be told before files are read.
void check_inspect_options(const InspectOptions& options);

/// Runs the model on the text and measures `options.positions` positions of every head.
/// Throws InvalidArgument, FileError, Unsupported.
InspectReport inspect_model(const InspectOptions& options, const std::atomic<bool>& interrupted);

}  // namespace hsattn::lm
