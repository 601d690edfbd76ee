// The folder of a run: config.json, environment.json, metrics.jsonl, checkpoints/, result.json. No torch here.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

class RunFolder {
 public:
  explicit RunFolder(std::string path) : path_(std::move(path)) {}

  const std::string& path() const { return path_; }
  std::string config_file() const { return path_ + "/config.json"; }
  std::string checkpoints() const { return path_ + "/checkpoints"; }
  std::string checkpoint(Index step) const;
  bool exists() const;
  /// Steps that have a whole checkpoint, ascending.
  std::vector<Index> checkpoint_steps() const;

  /// Creates the folder. Throws FileError if a run is there already.
  void create() const;
  void write_json(const std::string& name, const nlohmann::ordered_json& value) const;

  /// Drops lines of steps after `step`, left by a run that went on after its last checkpoint, and opens for appending.
  void open_metrics(Index step);
  /// The line of the last step in metrics.jsonl; evaluations have lines of their own. Throws FileError if there is
  /// none.
  nlohmann::ordered_json last_step() const;
  /// Throws FileError if the line cannot be written whole.
  void add_metrics(const nlohmann::ordered_json& line);

  /// A folder beside the checkpoint's final place; finish_checkpoint() gives it its name and removes all but the newest
  /// `keep`.
  std::string begin_checkpoint(Index step) const;
  void finish_checkpoint(Index step, Index keep) const;
  /// Removes what an interrupted writing left.
  void remove_unfinished() const;

 private:
  std::string metrics_file() const { return path_ + "/metrics.jsonl"; }

  std::string path_;
  std::ofstream metrics_;
};

}  // namespace hsattn::lm
