#include "lm/experiments/reproduce.h"

#include <iomanip>
#include <iostream>

#include "cli/commands.h"
#include "cli/progress.h"
#include "hsattn/base/error.h"
#include "lm/experiments/child.h"
#include "lm/options/lists.h"
#include "lm/train/environment.h"

namespace hsattn::cli {
namespace {

struct ReproduceCommandOptions : lm::Options {
  std::vector<std::string> experiment;
  std::string preset = "quick";
  std::string out;
  std::string text = "data/train";
  std::string held_out;
  std::string only;
  bool dry_run = false;
  bool keep_going = false;

  void visit(lm::OptionVisitor& option) override {
    option("experiment", experiment,
           "table51 | scaling | patterns | levels | pooling | theory | retrieval | all, which is also what none says; "
           "the option's name may be left out");
    option("preset", preset, "quick (15 minutes) | small (10 hours) | paper (117M parameters, speed and memory alone)");
    option("out", out, "folder of the results; runs/reproduce-PRESET unless given");
    option("text", text, "what is trained on: files or a folder, as `hsattn prepare` reads them");
    option("held_out", held_out, "what is evaluated on; unless given, the end of each text");
    option("only", only, "runs whose name holds one of these words, separated by commas, and what they need");
    option("dry_run", dry_run, "print the runs with their times and commands, and run nothing");
    option("keep_going", keep_going, "after a run that failed, go on with those that do not need it");
  }
};

std::string minutes(double value) { return duration(60 * value); }

const char* name_of(lm::RunState state) {
  switch (state) {
    case lm::RunState::kDone:
      return "done";
    case lm::RunState::kBegun:
      return "begun";
    case lm::RunState::kOutdated:
      return "changed";
    case lm::RunState::kWaiting:
      break;
  }
  return "waiting";
}

// What is left of a plan.
struct Left {
  std::size_t runs = 0;
  double minutes = 0;
};

Left left_of(const std::vector<lm::PlannedRun>& plan) {
  Left left;
  for (const lm::PlannedRun& planned : plan) {
    if (planned.state == lm::RunState::kDone) continue;
    ++left.runs, left.minutes += planned.minutes;
  }
  return left;
}

std::string summary(const std::vector<lm::PlannedRun>& plan) {
  const Left left = left_of(plan);
  return concat(plan.size(), " runs, ", plan.size() - left.runs, " done; about ", minutes(left.minutes),
                " for the others on two cores");
}

void print_plan(const lm::RunList& list, const std::vector<lm::PlannedRun>& plan, std::ostream& out) {
  std::size_t width = 0;
  for (const lm::PlannedRun& planned : plan) width = std::max(width, planned.run.name.size());
  for (const lm::PlannedRun& planned : plan) {
    out << std::left << std::setw(static_cast<int>(width)) << planned.run.name << "  " << std::setw(8)
        << name_of(planned.state) << std::right << std::setw(7) << minutes(planned.minutes) << "  hsattn "
        << lm::shell_text(planned.run.words) << "\n";
  }
  for (const std::string& line : list.left_out) out << line << "\n";
  out << summary(plan) << "\n";
}

class Reporter : public lm::ReproduceObserver {
 public:
  void on_run(std::size_t number, std::size_t all, const lm::PlannedRun& run, double left) override {
    progress_.line(concat("[", number, "/", all, "] ", run.run.name, ": about ", minutes(run.minutes), ", ",
                          minutes(left), " for all that is left"));
  }
  void on_tick(const lm::PlannedRun& run, double taken, double left) override {
    const auto done = static_cast<Index>(1000 * std::min(taken / std::max(run.minutes, 1e-9), 1.0));
    progress_.bar(
        done, 1000,
        concat(run.run.name, "  ", minutes(taken), " of about ", minutes(run.minutes), "  all: eta ", minutes(left)));
  }
  void on_done(const lm::PlannedRun& run, double taken) override {
    progress_.line(concat("  done in ", minutes(taken), ": ", run.run.name));
  }
  void on_failure(const lm::PlannedRun& run, const std::string& why) override {
    progress_.line(concat("  failed: ", run.run.name, ": ", why));
    last_failure_ = concat(run.run.name, " failed with ", why);
  }
  void finish() { progress_.finish(); }
  const std::string& last_failure() const { return last_failure_; }
  Progress& progress() { return progress_; }

 private:
  Progress progress_;
  std::string last_failure_;
};

lm::RunList list_of(const ReproduceCommandOptions& o, const lm::Preset& preset) {
  if (o.experiment.size() > 1)
    throw UsageError("experiments " + o.experiment[0] + ", " + o.experiment[1] + "; one, or all, is right");
  const std::string experiment = o.experiment.empty() ? "all" : o.experiment[0];
  const lm::RunList list = lm::list_runs(experiment, preset, o.text, o.held_out);
  return lm::only_runs(list, o.only.empty() ? std::vector<std::string>() : lm::split_list(o.only));
}

int finish(const ReproduceCommandOptions& o, const lm::RunList& list, const lm::ResultFolder& folder,
           const lm::ReproduceResult& result, const Reporter& reporter, std::ostream& out) {
  if (result.interrupted) {
    std::cerr << "hsattn reproduce: interrupted; what is done is kept, the same command goes on\n";
    return kInterrupted;
  }
  out << folder.path() << ": " << summary(lm::plan_of_runs(list, folder)) << "\n";
  if (result.failed > 0) {
    throw Error(concat(reporter.last_failure(), o.keep_going ? "" : "; --keep-going runs what does not need it"));
  }
  out << "page: hsattn report " << folder.path() << "\n";
  return kSuccess;
}

int run(const Arguments& arguments, std::ostream& out) {
  ReproduceCommandOptions options;
  parse_arguments(arguments, options, "experiment");
  const lm::RunList list = list_of(options, lm::preset_named(options.preset));
  if (options.out.empty()) options.out = "runs/reproduce-" + options.preset;
  const lm::ResultFolder folder(options.out);
  const auto plan = lm::plan_of_runs(list, folder);
  if (options.dry_run) {
    print_plan(list, plan, out);
    return kSuccess;
  }
  lm::this_program();
  Reporter reporter;
  for (const std::string& line : list.left_out) reporter.progress().line(line);
  reporter.progress().line(summary(plan));
  lm::ReproduceOptions how{options.preset, options.keep_going, lm::describe_environment(lm::use_threads(0))};
  const lm::ReproduceResult result = lm::reproduce(list, folder, how, interrupted(), reporter);
  reporter.finish();
  return finish(options, list, folder, result, reporter, out);
}

void print(std::ostream& out) {
  ReproduceCommandOptions options;
  print_options(options, out);
}

}  // namespace

Command reproduce_command() {
  return {"reproduce", "the paper's experiments: a list of runs that goes on where it was",
          "  hsattn reproduce all --preset quick\n"
          "  hsattn reproduce table51 --preset small --dry-run\n"
          "  hsattn reproduce levels --only levels-3,speed --out runs/levels\n",
          run, print};
}

}  // namespace hsattn::cli
