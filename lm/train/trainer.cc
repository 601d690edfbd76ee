#include "lm/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

#include "lm/data/files.h"
#include "lm/data/text_encoder.h"
#include "lm/data/token_file.h"
#include "lm/model/data_fit.h"
#include "lm/model/model_file.h"
#include "lm/model/safetensors.h"
#include "lm/model/transformer.h"
#include "lm/options/json_options.h"
#include "lm/train/environment.h"
#include "lm/train/gradients.h"
#include "lm/train/optimizer.h"
#include "lm/train/run_folder.h"
#include "lm/train/windows.h"

namespace hsattn::lm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

nlohmann::ordered_json to_line(const StepMetrics& m) {
  return {{"step", m.step},
          {"tokens", m.tokens},
          {"loss", m.loss},
          {"perplexity", std::exp(m.loss)},
          {"tokens_per_s", m.tokens_per_s},
          {"peak_memory_mib", m.peak_memory_mib},
          {"attention_share", m.attention_share},
          {"attended_tokens", m.attended_tokens},
          {"lr", m.learning_rate},
          {"grad_norm", m.gradient_norm},
          {"elapsed_s", m.elapsed_s}};
}

// The inverse, for a run that goes on.
StepMetrics from_line(const nlohmann::ordered_json& line) {
  StepMetrics m;
  m.step = line.at("step"), m.tokens = line.at("tokens"), m.loss = line.at("loss");
  m.tokens_per_s = line.at("tokens_per_s"), m.peak_memory_mib = line.at("peak_memory_mib");
  m.attention_share = line.at("attention_share"), m.attended_tokens = line.at("attended_tokens");
  m.learning_rate = line.at("lr"), m.gradient_norm = line.at("grad_norm"), m.elapsed_s = line.at("elapsed_s");
  return m;
}

nlohmann::ordered_json to_line(Index step, const EvalResult& r) {
  return {{"step", step},
          {"eval_loss", r.loss},
          {"eval_perplexity", std::exp(r.loss)},
          {"eval_perplexity_last_quarter", std::exp(r.loss_last_quarter)},
          {"eval_windows", r.windows}};
}

class Trainer {
 public:
  Trainer(const TrainOptions& options, bool resume, const std::atomic<bool>& interrupted, TrainObserver& observer)
      : options_(options),
        interrupted_(interrupted),
        observer_(observer),
        threads_(use_threads(options.threads)),
        precision_(resolve_precision(options.precision)),
        folder_(options.run),
        text_(options.data + "/train.tokens"),
        held_out_(options.data + "/heldout.tokens"),
        windows_(text_, options_),
        model_(model_for_data(), options.seed),
        optimizer_(model_.parameters(), options) {
    model_.set_checkpointing(options.checkpointing);
    if (options.aligned) check_aligned();
    if (resume) {
      load_checkpoint();
    } else {
      folder_.create();
    }
    if (step_ == 0 && !options_.init.empty()) load_weights(model_file_of(options_.init), model_);
    folder_.write_json("config.json", to_json(options_));
    folder_.write_json("environment.json", describe_environment(threads_));
    folder_.remove_unfinished();
    folder_.open_metrics(step_);
    if (step_ > 0) metrics_ = from_line(folder_.last_step());
  }

  TrainResult run();

 private:
  void check_aligned() const;
  const ModelConfig& model_for_data();
  bool run_step();
  bool can_evaluate() const { return held_out_.tokens() > options_.context; }
  void evaluate(TrainResult& result);
  void save_checkpoint();
  void load_checkpoint();
  std::string report_not_finite(const std::vector<Index>& starts);
  void write_result(const TrainResult& result);

  TrainOptions options_;
  const std::atomic<bool>& interrupted_;
  TrainObserver& observer_;
  Index threads_;
  std::string precision_;
  RunFolder folder_;
  TokenFile text_, held_out_;
  StepWindows windows_;
  Transformer model_;
  Optimizer optimizer_;
  Index step_ = 0, saved_step_ = -1;
  double elapsed_before_ = 0;
  Clock::time_point started_ = Clock::now();
  StepMetrics metrics_;
  std::string report_;
  std::vector<double> rates_, shares_;  // of every step of this process but the first, which warms up
};

void Trainer::check_aligned() const {
  for (const std::uint64_t start : text_.document_starts()) {
    if (start % static_cast<std::uint64_t>(options_.context) == 0) continue;
    throw FileError(concat(text_.path(), ": a document begins at token ", start, "; aligned windows of ",
                           options_.context, " tokens need documents of that length"));
  }
}

const ModelConfig& Trainer::model_for_data() {
  fit_to_data(options_.model, text_);
  check_fits(options_.model, held_out_);
  return options_.model;
}

// One step; false if loss or gradient are not finite, and then the weights are as before.
bool Trainer::run_step() {
  const auto began = Clock::now();
  Windows windows = windows_.after(step_);
  const at::Tensor tokens = at::from_blob(windows.tokens.data(), {windows.count, windows.context + 1}, at::kLong);
  const Index step_tokens = options_.batch * options_.accumulate * options_.context;
  model_.statistics() = {};
  if (options_.first_top_k > 0) model_.set_attention(attention_at(options_, step_ + 1));
  model_.draw_features(options_.model.attention.feature_seed_at(step_));
  const auto [loss, norm] = compute_gradients(model_, optimizer_, tokens, options_.accumulate, precision_ == "bf16",
                                              options_.answers_only && !windows.starts.empty());
  if (options_.first_top_k > 0) model_.set_attention(options_.model.attention);
  metrics_.loss = loss;
  metrics_.gradient_norm = norm;
  metrics_.step = step_ + 1;
  metrics_.learning_rate = learning_rate_at(options_, step_ + 1);
  if (!std::isfinite(metrics_.loss) || !std::isfinite(metrics_.gradient_norm)) {
    report_ = report_not_finite(windows.starts);
    return false;
  }
  optimizer_.step(metrics_.learning_rate);
  ++step_;

  const double seconds = seconds_since(began);
  metrics_.tokens = step_ * step_tokens;
  metrics_.tokens_per_s = static_cast<double>(step_tokens) / seconds;
  metrics_.peak_memory_mib = peak_memory_mib();
  metrics_.attention_share = model_.statistics().seconds / seconds;
  metrics_.attended_tokens = model_.statistics().attended_per_call();
  metrics_.elapsed_s = elapsed_before_ + seconds_since(started_);
  return true;
}

std::string Trainer::report_not_finite(const std::vector<Index>& starts) {
  const bool bad_loss = !std::isfinite(metrics_.loss);
  const std::string what =
      bad_loss ? concat("the loss is ", metrics_.loss) : concat("the norm of the gradient is ", metrics_.gradient_norm);
  const nlohmann::ordered_json report = {{"step", metrics_.step},
                                         {"what", what},
                                         {"loss", std::to_string(metrics_.loss)},
                                         {"grad_norm", std::to_string(metrics_.gradient_norm)},
                                         {"lr", metrics_.learning_rate},
                                         {"data", text_.path()},
                                         {"batch_offsets", starts},
                                         {"last_checkpoint", saved_step_}};
  folder_.write_json("not_finite.json", report);
  const std::string where = starts.empty()
                                ? "random tokens to copy"
                                : concat("windows at tokens ", starts.front(), starts.size() > 1 ? " and others" : "");
  return concat("step ", metrics_.step, ": ", what, " (learning rate ", metrics_.learning_rate, ", ", where,
                "); nothing was updated; ",
                saved_step_ < 0 ? std::string("no checkpoint yet") : concat("last checkpoint: step ", saved_step_),
                "; report in ", folder_.path(), "/not_finite.json");
}

void Trainer::evaluate(TrainResult& result) {
  if (!can_evaluate()) return;
  const EvalResult evaluation =
      evaluate_model(model_, held_out_, options_.context, options_.eval_windows, precision_ == "bf16", interrupted_);
  if (evaluation.interrupted) return;
  folder_.add_metrics(to_line(step_, evaluation));
  observer_.on_evaluation(step_, evaluation);
  result.evaluated = true;
  result.evaluation = evaluation;
}

void Trainer::save_checkpoint() {
  if (saved_step_ == step_) return;
  const std::string part = folder_.begin_checkpoint(step_);
  save_model(part + "/model.safetensors", model_);
  if (!options_.model.tokenizer.empty()) {
    write_file(part + "/" + kTokenizerFile, read_file(options_.data + "/" + kTokenizerFile));
  }
  const std::map<std::string, std::string> state = {
      {"step", std::to_string(step_)},
      {"elapsed_s", std::to_string(elapsed_before_ + seconds_since(started_))},
      {"train_hash", hex64(text_.hash())}};
  write_safetensors(part + "/optimizer.safetensors", {optimizer_.state(), state});
  folder_.finish_checkpoint(step_, options_.keep);
  saved_step_ = step_;
  observer_.on_checkpoint(step_, folder_.checkpoint(step_));
}

void Trainer::load_checkpoint() {
  const std::vector<Index> steps = folder_.checkpoint_steps();
  if (steps.empty()) return;  // it ended before the first: from the start again
  const std::string checkpoint = folder_.checkpoint(steps.back());
  load_weights(checkpoint + "/model.safetensors", model_);
  const std::string path = checkpoint + "/optimizer.safetensors";
  const SafeTensors content = read_safetensors(path);
  for (const auto& [name, tensor] : optimizer_.state()) copy_tensor(content, name, path, tensor);
  const auto entry = [&](const char* name) {
    const auto found = content.metadata.find(name);
    if (found == content.metadata.end()) throw FileError(concat(path, ": no ", name, " in its metadata"));
    return found->second;
  };
  if (entry("train_hash") != hex64(text_.hash())) {
    throw FileError(concat(text_.path(), " has the hash ", hex64(text_.hash()), ", the run was trained on ",
                           entry("train_hash"), "; the same data is right"));
  }
  step_ = saved_step_ = steps.back();
  model_.draw_features(options_.model.attention.feature_seed_at(std::max<Index>(0, step_ - 1)));
  elapsed_before_ = std::stod(entry("elapsed_s"));
}

void Trainer::write_result(const TrainResult& r) {
  ModelConfig config = options_.model;
  nlohmann::ordered_json json = to_line(r.last);
  json["tokens_per_s"] = r.tokens_per_s;
  json["attention_share"] = r.attention_share;
  json["finished"] = r.end == TrainEnd::kFinished;
  json["parameters"] = config.parameters();
  json["attention"] = config.attention.attention;
  json["precision"] = r.precision;
  if (r.evaluated) {
    json.update(to_line(r.last.step, r.evaluation));
    json["forward_ms"] = r.evaluation.forward_ms;
  }
  folder_.write_json("result.json", json);
}

TrainResult Trainer::run() {
  observer_.on_start(concat(options_.model.attention.attention, ", ", options_.model.parameters(), " parameters, ",
                            precision_, ", ", threads_, " threads, ", text_.tokens(), " training tokens, ",
                            can_evaluate() ? "" : "less held-out text than a window, so no evaluation, ", "step ",
                            step_, " of ", options_.steps));
  TrainResult result;
  result.precision = precision_;
  result.last = metrics_;
  const Index last = options_.stop_at > 0 ? std::min(options_.stop_at, options_.steps) : options_.steps;
  bool finite = true;
  while (step_ < last && !interrupted_) {
    finite = run_step();
    if (!finite) break;
    folder_.add_metrics(to_line(metrics_));
    observer_.on_step(metrics_);
    rates_.push_back(metrics_.tokens_per_s);
    shares_.push_back(metrics_.attention_share);
    result.last = metrics_;
    const bool evaluate_now = options_.eval_every > 0 && step_ % options_.eval_every == 0 && step_ < options_.steps;
    if (evaluate_now) evaluate(result);
    if (step_ % options_.save_every == 0) save_checkpoint();
  }
  if (!finite) {
    result.end = TrainEnd::kNotFinite;
    result.report = report_;
    return result;
  }
  save_checkpoint();
  result.end = interrupted_             ? TrainEnd::kInterrupted
               : step_ < options_.steps ? TrainEnd::kStopped
                                        : TrainEnd::kFinished;
  if (rates_.empty()) rates_ = {metrics_.tokens_per_s}, shares_ = {metrics_.attention_share};  // it had ended before
  if (rates_.size() > 1) rates_.erase(rates_.begin());
  if (shares_.size() > 1) shares_.erase(shares_.begin());
  result.tokens_per_s = median(rates_);
  result.attention_share = median(shares_);
  result.last.step = step_;
  if (result.end == TrainEnd::kFinished) evaluate(result);
  write_result(result);
  return result;
}

}  // namespace

TrainResult train(const TrainOptions& options, bool resume, const std::atomic<bool>& interrupted,
                  TrainObserver& observer) {
  check_train_options(options);
  return Trainer(options, resume, interrupted, observer).run();
}

TrainOptions read_run_options(const std::string& run) {
  TrainOptions options;
  const std::string file = RunFolder(run).config_file();
  from_json(read_json(file), options, file);
  return options;
}

}  // namespace hsattn::lm
