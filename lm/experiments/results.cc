#include "lm/experiments/results.h"

#include <cmath>
#include <filesystem>
#include <sstream>

#include "lm/data/files.h"
#include "lm/options/json_options.h"

namespace hsattn::lm {
namespace {

namespace fs = std::filesystem;

// What a training ran into instead of a loss: rates that are too high end so, and are no choice.
double loss_in(const nlohmann::ordered_json& result) {
  const auto& numbers = result.at("numbers");
  if (!numbers.contains("eval_loss") || !numbers["eval_loss"].is_number()) return INFINITY;
  const double loss = numbers["eval_loss"];
  return std::isfinite(loss) ? loss : INFINITY;
}

}  // namespace

std::optional<nlohmann::ordered_json> ResultFolder::result_of(const ExperimentRun& run) const {
  if (!fs::exists(file_of(run.name))) return {};
  auto result = read_json(file_of(run.name));
  if (!result.is_object() || !result.contains("words") || !result.contains("numbers")) {
    throw FileError(file_of(run.name) + ": not a result of `hsattn reproduce`; remove it to run it again");
  }
  if (result["words"] != nlohmann::ordered_json(run.words)) return {};
  if (result.contains("inputs") && result["inputs"] != run.inputs) return {};
  return result;
}

bool ResultFolder::outdated(const ExperimentRun& run) const { return fs::exists(file_of(run.name)) && !result_of(run); }

void ResultFolder::write(const ExperimentRun& run, const nlohmann::ordered_json& result) const {
  const std::string file = file_of(run.name), folder = fs::path(file).parent_path().string();
  make_folder(folder);
  std::string text;  // a line for each field
  for (const auto& [name, value] : result.items()) {
    text.append(text.empty() ? "{" : ",\n ").append(nlohmann::json(name).dump()).append(": ").append(value.dump());
  }
  write_file(file, text + "}\n");
  sync_folder(folder);
}

std::string best_rate(const ResultFolder& folder, const std::vector<ExperimentRun>& grid) {
  double lowest = INFINITY;
  std::string best;
  for (const ExperimentRun& run : grid) {
    const auto result = folder.result_of(run);
    if (!result) throw FileError(folder.file_of(run.name) + ": missing; the learning rate is chosen from it");
    if (loss_in(*result) >= lowest) continue;
    lowest = loss_in(*result);
    for (std::size_t i = 0; i + 1 < run.words.size(); ++i) {
      if (run.words[i] == "--learning-rate") best = run.words[i + 1];
    }
  }
  if (best.empty()) throw FileError(folder.path() + ": no learning rate of the grid ended with a finite loss");
  return best;
}

nlohmann::ordered_json loss_curve(const std::string& run_folder, std::size_t most) {
  std::vector<std::pair<double, double>> points;
  std::istringstream lines(read_file(run_folder + "/metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("tokens") && json.contains("loss"))
      points.emplace_back(json["tokens"], json["loss"]);
  }
  auto curve = nlohmann::ordered_json::array();
  const std::size_t size = std::max<std::size_t>(1, (points.size() + most - 1) / most);
  for (std::size_t begin = 0; begin < points.size(); begin += size) {
    const std::size_t end = std::min(points.size(), begin + size);
    double tokens = 0, loss = 0;
    for (std::size_t i = begin; i < end; ++i) tokens += points[i].first, loss += points[i].second;
    const auto count = static_cast<double>(end - begin);
    curve.push_back({std::round(tokens / count), std::round(1e5 * loss / count) / 1e5});
  }
  return curve;
}

}  // namespace hsattn::lm
