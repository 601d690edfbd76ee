// The folder of an experiment's results: a JSON file for each finished run, and under work/ what runs need of each
// other.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "lm/experiments/run_list.h"

namespace hsattn::lm {

class ResultFolder {
 public:
  explicit ResultFolder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string work() const { return path_ + "/work"; }
  std::string work_of(const std::string& run) const { return work() + "/" + run; }
  std::string file_of(const std::string& run) const { return path_ + "/" + run + ".json"; }

  /// The result of a run if it is there and was made by the run as it is listed now: the same words, of it and of all
  /// that it needs.
  /// Throws FileError for a file that is no result.
  std::optional<nlohmann::ordered_json> result_of(const ExperimentRun& run) const;
  /// True if a result is there that was made by others.
  bool outdated(const ExperimentRun& run) const;
  /// Whole or absent.
  void write(const ExperimentRun& run, const nlohmann::ordered_json& result) const;

 private:
  std::string path_;
};

/// The learning rate of the run of `grid` with the lowest held-out loss; of two equal ones the first.
/// Throws FileError if a result is missing or none ended with a finite loss.
std::string best_rate(const ResultFolder& folder, const std::vector<ExperimentRun>& grid);

/// Points (tokens, loss) of a run's metrics.jsonl, neighbours averaged so that at most `most` are left.
nlohmann::ordered_json loss_curve(const std::string& run_folder, std::size_t most);

}  // namespace hsattn::lm
