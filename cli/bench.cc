#include <algorithm>
#include <optional>

#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/options/json_options.h"

namespace hsattn::cli {
namespace {

struct Options : lm::BenchOptions {
  bool json = false;
  std::string save, baseline;
  double fail_below = 0;

  void visit(lm::OptionVisitor& option) override {
    option("json", json, "print one JSON object instead of the table");
    option("save", save, "write that JSON object to this file, besides");
    option("baseline", baseline, "an earlier run's JSON, to compare each row with");
    option("fail_below", fail_below, "exit code 1 if a row is less than so many times as fast as in the baseline");
    lm::BenchOptions::visit(option);
  }
};

std::vector<lm::BenchCase> checked_cases(const Options& options) {
  lm::check_bench_options(options);
  check(options.fail_below >= 0, "fail_below is ", options.fail_below, "; at least 0 is right");
  check(options.fail_below == 0 || !options.baseline.empty(), "fail_below needs a baseline; name it, too");
  return lm::bench_cases(options);
}

// Read before anything runs, so that a wrong file costs no time.
Baseline baseline_for(const std::string& path, lm::BenchOptions& options, const std::vector<lm::BenchCase>& cases) {
  if (path.empty()) return {};
  Baseline baseline = read_baseline(path, options);
  const bool useful = std::any_of(cases.begin(), cases.end(), [&](const auto& c) { return baseline.contains(c.name); });
  if (!useful) throw lm::FileError(path + ": has none of the rows that would run; the same options are right");
  return baseline;
}

// Names of rows that are less than `fail_below` times as fast as before, separated by commas.
std::string too_slow(const std::vector<lm::BenchRow>& rows, const Baseline& baseline, double fail_below) {
  std::string names;
  for (const lm::BenchRow& row : rows) {
    const auto before = baseline.find(row.which.name);
    if (!row.skipped.empty() || before == baseline.end() || before->second.ours / row.ours >= fail_below) continue;
    names += (names.empty() ? "" : ", ") + row.which.name;
  }
  return names;
}

int run(const Arguments& arguments, std::ostream& out) {
  Options options;
  parse_arguments(arguments, options);
  const std::vector<lm::BenchCase> cases = checked_cases(options);
  lm::BenchOptions described = options;  // those that JSON shows: without files and output
  BenchReport report;
  report.baseline = baseline_for(options.baseline, described, cases);
  std::optional<lm::AtomicFile> file;  // opened first: a wrong path costs no time, either
  if (!options.save.empty()) file.emplace(options.save);
  Progress progress;
  report.peak = lm::measure_fma_peak();
  report.rows =
      lm::bench_attention(cases, options.repeats, interrupted(), [&](const std::string& text) { progress.line(text); });
  const std::string json = bench_json(described, report).dump() + "\n";
  if (options.json) {
    out << json;
  } else {
    print_bench(described, report, out);
  }
  if (interrupted()) return kInterrupted;  // what was saved earlier stays: these rows are not all
  if (file) {
    file->write(json);
    file->commit();
  }
  const std::string slow = too_slow(report.rows, report.baseline, options.fail_below);
  if (slow.empty()) return kSuccess;
  progress.line(concat("less than ", options.fail_below, " times as fast as before: ", slow));
  return kFailure;
}

void print(std::ostream& out) {
  Options options;
  print_options(options, out);
}

}  // namespace

Command bench_command() {
  return {"bench",
          "attention alone against PyTorch's SDPA: checked, then timed; poolers, whose parameters belong to a model, "
          "are timed by bench-step",
          "  hsattn bench --save before.json\n"
          "  hsattn bench --only growth\n"
          "  hsattn bench --quick --only training --baseline before.json --fail-below 0.9\n"
          "  hsattn bench --pattern full --lengths 8192 --threads 2\n"
          "  hsattn bench --preset any_model --lengths 8192,32768 --no-backward --json\n",
          run, print};
}

}  // namespace hsattn::cli
