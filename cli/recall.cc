#include "lm/eval/recall.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"

namespace hsattn::cli {
namespace {

double share_of(const lm::RecallReport& r) {
  return static_cast<double>(std::count(r.right.begin(), r.right.end(), true)) / static_cast<double>(r.right.size());
}

double share_of_bytes(const lm::RecallReport& r) {
  return static_cast<double>(r.right_bytes) / static_cast<double>(r.bytes);
}

void print_json(const lm::RecallOptions& o, const lm::RecallReport& r, std::ostream& out) {
  std::string bits;
  for (const bool right : r.right) bits += right ? '1' : '0';
  const nlohmann::ordered_json json = {{"model", r.model_file},
                                       {"data", o.data},
                                       {"attention", r.attention},
                                       {"answers", r.right.size()},
                                       {"accuracy", share_of(r)},
                                       {"accuracy_bytes", share_of_bytes(r)},
                                       {"right", bits},
                                       {"distances", r.distances}};
  out << json.dump() << "\n";
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::RecallOptions options;
  parse_arguments(arguments, options);
  if (options.model.empty()) throw UsageError("no --model; name a run folder, a checkpoint or a .safetensors file");
  if (options.data.empty()) throw UsageError("no --data; name a folder written by `hsattn task`");
  Progress progress;
  const lm::RecallReport report =
      lm::measure_recall(options, interrupted(), [&](Index done, Index all) { progress.count(done, all, "answers"); });
  progress.finish();
  if (report.interrupted) return kInterrupted;
  if (options.json) {
    print_json(options, report, out);
  } else {
    out << report.model_file << ", attention " << report.attention << ": " << fixed(100 * share_of(report), 1)
        << "% of " << report.right.size() << " answers right, " << fixed(100 * share_of_bytes(report), 1)
        << "% of their bytes\n";
  }
  return kSuccess;
}

void print(std::ostream& out) {
  lm::RecallOptions options;
  print_options(options, out);
}

}  // namespace

Command recall_command() {
  return {"recall", "how many of the questions of `hsattn task` a model answers",
          "  hsattn recall --model runs/r --data runs/recall --context 1024 --answers 1000\n"
          "  hsattn recall --model runs/r --data runs/recall --context 8192 --attention hsa --candidates 2048\n",
          run, print};
}

}  // namespace hsattn::cli
