#include "lm/train/run_folder.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "lm/data/files.h"

namespace hsattn::lm {
namespace {

namespace fs = std::filesystem;

constexpr const char* kUnfinished = ".part";

}  // namespace

std::string RunFolder::checkpoint(Index step) const {
  std::string digits = std::to_string(step);
  digits.insert(0, digits.size() < 8 ? 8 - digits.size() : 0, '0');
  return checkpoints() + "/step-" + digits;
}

bool RunFolder::exists() const { return fs::exists(config_file()); }

std::vector<Index> RunFolder::checkpoint_steps() const {
  std::vector<Index> steps;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints(), ignored)) {
    const std::string name = entry.path().filename().string();
    const bool whole = name.starts_with("step-") && name.find_first_not_of("0123456789", 5) == std::string::npos;
    if (whole && name.size() > 5 && name.size() < 24) steps.push_back(std::stoll(name.substr(5)));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

void RunFolder::create() const {
  if (exists()) throw FileError(path_ + " holds a run already; use --resume to go on, or name another folder");
  make_folder(checkpoints());
}

void RunFolder::write_json(const std::string& name, const nlohmann::ordered_json& value) const {
  write_file(path_ + "/" + name, value.dump(2) + "\n");
}

void RunFolder::open_metrics(Index step) {
  if (fs::exists(metrics_file())) {
    std::istringstream lines(read_file(metrics_file()));
    std::string kept;
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (json.is_object() && json.contains("step") && json["step"].is_number_integer() && json["step"] <= step) {
        kept += line + "\n";
      }
    }
    write_file(metrics_file(), kept);
  }
  errno = 0;
  metrics_.open(metrics_file(), std::ios::app);
  if (!metrics_) throw FileError(concat("cannot write ", metrics_file(), ": ", std::strerror(errno)));
}

nlohmann::ordered_json RunFolder::last_step() const {
  std::istringstream lines(read_file(metrics_file()));
  nlohmann::ordered_json last;
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("loss")) last = std::move(json);
  }
  if (last.is_null()) throw FileError(metrics_file() + ": no step is recorded");
  return last;
}

void RunFolder::add_metrics(const nlohmann::ordered_json& line) {
  errno = 0;
  metrics_ << line.dump() << "\n" << std::flush;
  if (!metrics_) throw FileError(concat("cannot write ", metrics_file(), ": ", std::strerror(errno)));
}

std::string RunFolder::begin_checkpoint(Index step) const {
  const std::string part = checkpoint(step) + kUnfinished;
  fs::remove_all(part);
  make_folder(part);
  return part;
}

void RunFolder::finish_checkpoint(Index step, Index keep) const {
  const std::string part = checkpoint(step) + kUnfinished, final_name = checkpoint(step);
  sync_folder(part);
  std::error_code error;
  fs::remove_all(final_name, error);
  fs::rename(part, final_name, error);
  if (error) throw FileError(concat("cannot rename ", part, ": ", error.message()));
  sync_folder(checkpoints());
  const std::vector<Index> steps = checkpoint_steps();
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < steps.size(); ++i) {
    fs::remove_all(checkpoint(steps[i]), error);  // an old checkpoint that stays is no reason to stop
  }
}

void RunFolder::remove_unfinished() const {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints(), ignored)) {
    if (entry.path().extension() == kUnfinished) fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace hsattn::lm
