#include "lm/experiments/reproduce.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <memory>
#include <set>
#include <sstream>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/experiments/child.h"

namespace hsattn::lm {
namespace {

namespace fs = std::filesystem;

constexpr int kInterrupted = 130;
constexpr std::size_t kCurvePoints = 60;

// Held as long as the object lives; the kernel drops it when the process dies.
class FolderLock {
 public:
  explicit FolderLock(const std::string& folder) {
    const std::string path = folder + "/lock";
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) throw FileError(concat("cannot write ", path, ": ", std::strerror(errno)));
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(descriptor_);
    throw FileError(folder + ": another `hsattn reproduce` works in it; wait for it, or name another --out");
  }
  ~FolderLock() { ::close(descriptor_); }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
  return text;
}

std::string last_line(const std::string& path) {
  std::istringstream lines(read_file(path));
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

class Runner {
 public:
  Runner(const RunList& list, const ResultFolder& folder, const ReproduceOptions& options,
         const std::atomic<bool>& interrupted, ReproduceObserver& observer)
      : folder_(folder), options_(options), interrupted_(interrupted), observer_(observer) {
    make_folder(folder.work());
    lock_ = std::make_unique<FolderLock>(folder.work());
    plan_ = plan_of_runs(list, folder);
  }

  ReproduceResult run();

 private:
  bool needs_failed(const ExperimentRun& run) const;
  /// False if it failed or was interrupted.
  bool run_one(PlannedRun& planned);
  std::vector<std::string> words_to_run(const ExperimentRun& run) const;
  void fail(const PlannedRun& planned, const std::string& why);
  void keep(const PlannedRun& planned, const std::vector<std::string>& words, const ChildEnd& end,
            const std::string& output) const;
  double expected_left(std::size_t from) const;

  const ResultFolder& folder_;
  const ReproduceOptions& options_;
  const std::atomic<bool>& interrupted_;
  ReproduceObserver& observer_;
  std::unique_ptr<FolderLock> lock_;
  std::vector<PlannedRun> plan_;
  std::size_t at_ = 0;
  std::set<std::string> failed_;
  double expected_done_ = 0, taken_ = 0;  // of this call: how much slower this machine is than expected
  ReproduceResult result_;
};

bool Runner::needs_failed(const ExperimentRun& run) const {
  const auto failed = [&](const std::string& name) { return failed_.contains(name); };
  return std::any_of(run.needs.begin(), run.needs.end(), failed) ||
         std::any_of(run.grid.begin(), run.grid.end(), failed);
}

// A minute of what is expected counts besides, so that one first short run does not decide.
double Runner::expected_left(std::size_t from) const {
  double minutes = 0;
  for (std::size_t i = from; i < plan_.size(); ++i) {
    if (plan_[i].state != RunState::kDone && !failed_.contains(plan_[i].run.name)) minutes += plan_[i].minutes;
  }
  return minutes * (taken_ + 1) / (expected_done_ + 1);
}

// A training that has begun goes on; all others start afresh.
std::vector<std::string> Runner::words_to_run(const ExperimentRun& run) const {
  std::string rate;
  if (!run.grid.empty()) {
    std::vector<ExperimentRun> grid;
    for (const PlannedRun& other : plan_) {
      if (std::find(run.grid.begin(), run.grid.end(), other.run.name) != run.grid.end()) grid.push_back(other.run);
    }
    rate = best_rate(folder_, grid);
  }
  std::vector<std::string> words;
  for (const std::string& word : run.words) {
    words.push_back(replaced(replaced(word, kWork, folder_.work()), kRate, rate));
  }
  return words;
}

void Runner::fail(const PlannedRun& planned, const std::string& why) {
  failed_.insert(planned.run.name);
  ++result_.failed;
  observer_.on_failure(planned, why);
}

void Runner::keep(const PlannedRun& planned, const std::vector<std::string>& words, const ChildEnd& end,
                  const std::string& output) const {
  const ExperimentRun& run = planned.run;
  std::vector<std::string> command = {"hsattn"};
  command.insert(command.end(), words.begin(), words.end());
  nlohmann::ordered_json result = {{"name", run.name}, {"preset", options_.preset}};
  for (const auto& [name, value] : run.labels.items()) result[name] = value;
  result["command"] = shell_text(command);
  result["words"] = run.words;
  if (!run.inputs.empty()) result["inputs"] = run.inputs;
  result["ended"] = utc_now();
  result["seconds"] = end.seconds;
  result["processor_seconds"] = end.processor_seconds;
  result["environment"] = options_.environment;
  auto numbers = nlohmann::ordered_json::parse(output, nullptr, /*allow_exceptions=*/false);
  result["numbers"] = numbers.is_object() ? numbers : nlohmann::ordered_json::object();
  if (numbers.contains("elapsed_s")) result["seconds"] = numbers["elapsed_s"];  // of all its processes
  if (run.trains()) result["curve"] = loss_curve(folder_.work_of(run.name), kCurvePoints);
  folder_.write(run, result);
}

bool Runner::run_one(PlannedRun& planned) {
  const ExperimentRun& run = planned.run;
  const std::vector<std::string> words = words_to_run(run);
  const std::string place = folder_.work_of(run.name), log = place + ".log", out = place + ".out";
  make_folder(fs::path(place).parent_path().string());
  std::vector<std::string> child = {this_program()};
  if (run.trains() && planned.state == RunState::kBegun) {
    child.insert(child.end(), {"train", "--run", place, "--resume", "--json"});
  } else {
    fs::remove_all(place);  // of a run with other words, or one that left nothing to go on with
    child.insert(child.end(), words.begin(), words.end());
  }
  // The words that the folder's training was begun with: decides whether a later call goes on with it.
  if (run.trains()) write_file(place + ".words", nlohmann::ordered_json(run.words).dump() + "\n");
  const ChildEnd end = run_child(child, out, log, interrupted_, [&](double seconds) {
    observer_.on_tick(planned, seconds / 60, std::max(expected_left(at_) - seconds / 60, 0.0));
  });
  if (end.code != 0 && (interrupted_ || end.code == kInterrupted)) {
    result_.interrupted = true;
    return false;
  }
  if (end.code != 0) {
    fail(planned, concat("exit code ", end.code, ": ", last_line(log), " (log: ", log, ")"));
    return false;
  }
  keep(planned, words, end, read_file(out));
  planned.state = RunState::kDone;
  expected_done_ += planned.minutes, taken_ += end.seconds / 60;
  ++result_.done;
  observer_.on_done(planned, end.seconds / 60);
  return true;
}

ReproduceResult Runner::run() {
  for (at_ = 0; at_ < plan_.size(); ++at_) {
    PlannedRun& planned = plan_[at_];
    if (planned.state == RunState::kDone) continue;
    if (interrupted_) result_.interrupted = true;
    if (result_.interrupted) break;
    if (needs_failed(planned.run)) {
      failed_.insert(planned.run.name), ++result_.skipped;
      continue;
    }
    observer_.on_run(at_ + 1, plan_.size(), planned, expected_left(at_));
    if (!run_one(planned) && (result_.interrupted || !options_.keep_going)) break;
  }
  return result_;
}

RunState state_of(const ExperimentRun& run, const ResultFolder& folder) {
  if (folder.result_of(run)) return RunState::kDone;
  const std::string place = folder.work_of(run.name), words = place + ".words";
  const bool same = fs::exists(words) && read_file(words) == nlohmann::ordered_json(run.words).dump() + "\n";
  if (run.trains() && same && fs::exists(place + "/config.json")) return RunState::kBegun;
  return folder.outdated(run) ? RunState::kOutdated : RunState::kWaiting;
}

}  // namespace

std::vector<PlannedRun> plan_of_runs(const RunList& list, const ResultFolder& folder) {
  std::vector<PlannedRun> plan;
  for (const ExperimentRun& run : list.runs) {
    PlannedRun planned{run, state_of(run, folder), run.minutes};
    if (const auto result = folder.result_of(run)) planned.minutes = result->at("seconds").get<double>() / 60;
    plan.push_back(std::move(planned));
  }
  // Results may be there without the text and the models behind them, as in a fresh clone: made again where needed.
  std::set<std::string> needed;
  for (auto planned = plan.rbegin(); planned != plan.rend(); ++planned) {
    const ExperimentRun& run = planned->run;
    if (planned->state == RunState::kDone && needed.contains(run.name) && !fs::exists(folder.work_of(run.name))) {
      planned->state = RunState::kWaiting;
    }
    if (planned->state != RunState::kDone) needed.insert(run.needs.begin(), run.needs.end());
  }
  return plan;
}

ReproduceResult reproduce(const RunList& list, const ResultFolder& folder, const ReproduceOptions& options,
                          const std::atomic<bool>& interrupted, ReproduceObserver& observer) {
  return Runner(list, folder, options, interrupted, observer).run();
}

}  // namespace hsattn::lm
