// The experiments as a list of runs: each a command line of this same program that leaves one result file. No torch
// here.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lm/experiments/presets.h"

namespace hsattn::lm {

struct ExperimentRun {
  std::string name;                ///< "table51/hsa/seed-1": unique, and the path of its files
  nlohmann::ordered_json labels;   ///< what the report sorts by: {"experiment": "table51", "system": "hsa", ...}
  std::vector<std::string> words;  ///< the command line behind the program's name; see kWork and kRate
  std::vector<std::string> needs;  ///< runs before it: it reads what they left
  std::vector<std::string> grid;   ///< runs of which the best decides kRate
  double minutes = 0;              ///< expected on two cores
  std::string inputs = {};         ///< fingerprint of the words of all that it needs; empty: nothing

  bool trains() const { return !words.empty() && words[0] == "train"; }
};

constexpr const char* kWork = "{work}";  ///< in words: the folder of runs, models and prepared text
constexpr const char* kRate = "{rate}";  ///< in words: the learning rate of the run of `grid` with the lowest loss

struct RunList {
  std::vector<ExperimentRun> runs;    ///< each after all that it needs
  std::vector<std::string> left_out;  ///< a line for each system or pooling that this program does not have
};

/// Fills in `inputs` of every run.
void note_inputs(RunList& list);

/// Names of experiments, besides "all".
const std::vector<std::string>& experiment_names();

/// The runs of an experiment (or "all"), and what they need of others. `text` and `held_out`: what is read. Throws
/// InvalidArgument for a name that is none, and for an experiment that the preset does not have.
RunList list_runs(const std::string& experiment, const Preset& preset, const std::string& text,
                  const std::string& held_out);

/// The part of `list` whose names hold one of `wanted` (empty: all), and what it needs.
/// Throws InvalidArgument if nothing is left.
RunList only_runs(const RunList& list, const std::vector<std::string>& wanted);

}  // namespace hsattn::lm
