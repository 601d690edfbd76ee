// The sizes of the experiments: everything that decides how long they take stands in one table, presets.cc.
#pragma once

#include <string>
#include <vector>

#include "hsattn/base/types.h"
#include "lm/data/repeats.h"

namespace hsattn::lm {

/// What a sparse system may attend, in tokens; the rest as in HsaOptions.
struct Budget {
  Index window = 0, top_k = 0, sinks = 0, block = 0, candidates = 0, top_nodes = 0;
  Index node = 0;          ///< of HSA's search; 0: block
  bool far_field = false;  ///< of HSA

  Index attended() const { return window + top_k + sinks; }
};

struct ModelSize {
  Index layers = 0, width = 0, heads = 0, vocabulary = 256, taps = 0;
};

/// Read-out tasks of one length.
struct RetrievalSize {
  Index length = 0, batch = 0, steps = 0;
  Index candidates = 0, top_nodes = 0;  ///< of HSA's search; 0: as in the preset's budget
};

struct Preset {
  std::string name;
  bool trains = true;  ///< false: speed and memory alone; perplexity is for whoever has the machines

  ModelSize model;  ///< with more than 256 tokens, a tokenizer of so many is trained on the text
  Repeats repeats;  ///< of the text
  Index context = 0, batch = 0;
  Index copy_steps = 0, short_context = 0, short_steps = 0;  ///< as TrainOptions has them
  Budget budget;
  Budget paper_form;          ///< HSA as the paper has it: far field, and a search down to the blocks
  std::vector<double> rates;  ///< the grid of learning rates, on seed `grid_seed`
  Index grid_seed = 0, grid_steps = 0;
  std::vector<Index> seeds, variant_seeds;  ///< of the systems; of the variants of HSA
  Index steps = 0, eval_windows = 0;

  std::vector<Index> speed_lengths;    ///< table 5.1: a training step of every system
  std::vector<Index> scaling_lengths;  ///< 5.2: a step and a forward pass against standard and sdpa
  Index speed_repeats = 0;
  bool checkpointing = false;  ///< of the timed steps

  Index pattern_positions = 0, explored_queries = 0;
  Index theory_cases = 0;

  std::vector<std::string> tasks;
  ModelSize retrieval_model;
  Index retrieval_copy_steps = 0;  ///< of the shortest length
  std::vector<RetrievalSize> retrieval;
  Index retrieval_answers = 0, retrieval_samples = 0;

  /// Arithmetic that training reaches, floating-point operations per second on two cores: the measure of expected
  /// times.
  double speed = 0;
};

/// quick, small, paper. Throws InvalidArgument that lists the names.
const Preset& preset_named(const std::string& name);

}  // namespace hsattn::lm
