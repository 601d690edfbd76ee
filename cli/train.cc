#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "hsattn/base/error.h"
#include "lm/options/json_options.h"
#include "lm/train/trainer.h"

namespace hsattn::cli {
namespace {

// Options of the run itself and those of this call.
struct CommandOptions : lm::Options {
  lm::TrainOptions train;
  bool resume = false;
  bool json = false;

  void visit(lm::OptionVisitor& option) override {
    train.visit(option);
    option("resume", resume, "go on from the newest checkpoint of --run, with the options of that run");
    option("json", json, "print the result as one JSON object");
  }
  void apply_preset() override { train.apply_preset(); }
};

// What may differ when a run goes on: none of these changes what is learned from here on.
constexpr const char* kFreeOnResume[] = {"run",          "data",       "threads", "log_every", "eval_every",
                                         "eval_windows", "save_every", "keep",    "stop_at"};

// The options of the run in the folder, with what the command line sets on top. Throws UsageError if that would train
// something else.
lm::TrainOptions resumed_options(const Arguments& arguments, const std::string& run) {
  struct Resumed : CommandOptions {
    void apply_preset() override {}  // budgets come from the run
  } options;
  options.train = lm::read_run_options(run);
  options.train.stop_at = 0;
  nlohmann::ordered_json before = lm::to_json(options.train);
  parse_arguments(arguments, options);
  nlohmann::ordered_json after = lm::to_json(options.train);
  for (const char* name : kFreeOnResume) before.erase(name), after.erase(name);
  for (const auto& [name, value] : after.items()) {
    if (before[name] == value) continue;
    throw UsageError(concat("--resume: the run has ", name, " = ", before[name].dump(), ", the command line says ",
                            value.dump(), "; it cannot change on the way"));
  }
  return options.train;
}

// Log lines and the bar.
class Reporter : public lm::TrainObserver {
 public:
  Reporter(Index steps, Index log_every) : steps_(steps), log_every_(log_every) {}

  void on_start(const std::string& description) override { progress_.line(description); }

  void on_step(const lm::StepMetrics& m) override {
    // Averages over the steps since the last line; the rate follows the time, not the mean of rates.
    ++count_, loss_ += m.loss, seconds_ += 1 / m.tokens_per_s;
    const bool log = m.step % log_every_ == 0 || m.step == steps_;
    if (!log && !progress_.terminal()) return;
    const double loss = loss_ / count_, rate = count_ / seconds_;
    const double step_tokens = static_cast<double>(m.tokens) / static_cast<double>(m.step);
    const double left = static_cast<double>(steps_ - m.step) * step_tokens / rate;
    const std::string text =
        concat("step ", m.step, "/", steps_, "  loss ", fixed(loss, 4), "  ppl ", fixed(std::exp(loss), 3), "  ",
               short_number(rate), " tok/s  ", fixed(m.peak_memory_mib, 0), " MiB  attention ",
               fixed(100 * m.attention_share, 0), "%  attended ", fixed(m.attended_tokens, 0), "  lr ",
               sparse(m.learning_rate), "  eta ", duration(left));
    if (log) {
      progress_.line(text);
      count_ = loss_ = seconds_ = 0;
    }
    progress_.bar(m.step, steps_, text);
  }

  void on_evaluation(Index step, const lm::EvalResult& r) override {
    progress_.line(concat("step ", step, "  held out: loss ", fixed(r.loss, 4), "  ppl ", fixed(std::exp(r.loss), 4),
                          "  last quarter ", fixed(std::exp(r.loss_last_quarter), 4)));
  }

  void on_checkpoint(Index step, const std::string& path) override {
    progress_.line(concat("step ", step, "  saved ", path));
  }

  void finish() { progress_.finish(); }

 private:
  static std::string sparse(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2e", value);
    return text;
  }

  Progress progress_;
  Index steps_, log_every_;
  double count_ = 0, loss_ = 0, seconds_ = 0;
};

void print_result(const lm::TrainOptions& options, const lm::TrainResult& r, bool json, std::ostream& out) {
  if (json) {
    out << lm::read_json(options.run + "/result.json").dump() << "\n";
    return;
  }
  out << options.run << ": step " << r.last.step << " of " << options.steps;
  if (r.last.loss > 0) out << ", loss " << fixed(r.last.loss, 4) << ", " << short_number(r.tokens_per_s) << " tokens/s";
  if (r.evaluated) {
    out << ", held-out perplexity per token " << fixed(std::exp(r.evaluation.loss), 4) << " (last quarter "
        << fixed(std::exp(r.evaluation.loss_last_quarter), 4) << ")";
  }
  out << "\n";
}

int run(const Arguments& arguments, std::ostream& out) {
  CommandOptions options;
  parse_arguments(arguments, options);
  if (options.train.run.empty()) throw UsageError("no --run; name the folder of the run");
  if (options.resume) options.train = resumed_options(arguments, options.train.run);
  if (options.train.data.empty()) throw UsageError("no --data; name a folder written by `hsattn prepare`");
  lm::check_train_options(options.train);
  Reporter reporter(options.train.steps, options.train.log_every);
  const lm::TrainResult result = lm::train(options.train, options.resume, interrupted(), reporter);
  reporter.finish();
  if (result.end == lm::TrainEnd::kNotFinite) throw Error(result.report);
  if (result.end == lm::TrainEnd::kInterrupted) {
    std::cerr << "hsattn train: interrupted and saved; go on with: hsattn train --run " << options.train.run
              << " --resume\n";
    return kInterrupted;
  }
  print_result(options.train, result, options.json, out);
  return kSuccess;
}

void print(std::ostream& out) {
  CommandOptions options;
  print_options(options, out);
}

}  // namespace

Command train_command() {
  return {"train", "train a language model on prepared text",
          "  hsattn train --data runs/data --run runs/hsa --attention hsa --context 4096 --steps 600\n"
          "  hsattn train --data runs/data --run runs/sdpa --attention sdpa --context 4096 --steps 600\n"
          "  hsattn train --data runs/data --run runs/pooled --pooling attention --context 4096 --steps 600\n"
          "  hsattn train --data runs/data --run runs/linformer --attention linformer --context 4096 --longest 4096\n"
          "  hsattn train --run runs/hsa --resume\n",
          run, print};
}

}  // namespace hsattn::cli
