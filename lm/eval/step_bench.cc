#include "lm/eval/step_bench.h"

#include <malloc.h>

#include <cmath>
#include <memory>
#include <set>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/data/first_tokens.h"
#include "lm/eval/step_memory.h"
#include "lm/eval/timing.h"
#include "lm/options/lists.h"
#include "lm/options/variants.h"
#include "lm/train/environment.h"
#include "lm/train/gradients.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

// Full attention by another kernel gives the same step but for rounding, which measured 1e-7 and 1e-5 at 8192 tokens.
constexpr double kAllowedLossError = 1e-5;
constexpr double kAllowedGradientError = 1e-3;
// Sparse attention is another function; with fresh weights its loss is still that of guessing.
constexpr double kSparseLossError = 0.02;

std::string name_of_variant(const std::string& attention) { return attention.substr(0, attention.find(':')); }

// What tells a model with parameters of its attention from others; empty if it has none.
std::string own_parameters(const std::string& variant, const AttentionOptions& options) {
  if (options.has_pooler()) return options.pooling;
  return options.attention == "linformer" ? variant : "";
}

bool sees_everything(const std::string& attention) {
  return attention == "full" || attention == "sdpa" || attention == "standard";
}

// [batch, length + 1]
Tensor tokens_of(const StepBenchOptions& o, Index length) {
  if (o.text.empty()) {
    at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(o.seed));
    return at::empty({o.batch, length + 1}, at::kLong).random_(0, o.model.vocabulary, generator);
  }
  const Index all = o.batch * (length + 1);
  const std::vector<int64_t> tokens = first_tokens(o.text, all, nullptr);
  if (static_cast<Index>(tokens.size()) < all) {
    throw FileError(concat(o.text, " has ", tokens.size(), " tokens; at least ", all, " are right"));
  }
  for (const int64_t token : tokens) {
    if (token < o.model.vocabulary) continue;
    throw FileError(concat(o.text, " holds a token ", token, "; less than ", o.model.vocabulary, " is right"));
  }
  return at::tensor(tokens).view({o.batch, length + 1});
}

struct StepTime {
  double step = 0, in_attention = 0, in_optimizer = 0;
  bool operator<(const StepTime& other) const { return step < other.step; }
};

// Every step starts from the same weights. An attention with parameters has a model of its own, with the same other
// weights.
class StepBench {
 public:
  explicit StepBench(const StepBenchOptions& options) : options_(options) {}

  void set_tokens(const Tensor& tokens) { tokens_ = tokens; }
  StepTime time_step(const std::string& attention);
  double time_forward(const std::string& attention);
  /// Sets the memory of `row` by a step.
  void measure_memory(StepBenchRow& row);
  /// A step with SDPA, to compare with.
  void take_reference();
  /// Sets loss and errors of `row`, which is right or throws.
  void check_step(StepBenchRow& row);

 private:
  void build(const AttentionOptions& attention);
  void start_afresh(const std::string& attention);
  Tensor gradient() const;

  StepBenchOptions options_;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::string own_parameters_;  // whose the model has besides the common ones
  std::vector<Tensor> fresh_;
  Tensor tokens_, reference_;
  GradientsResult result_;
  double reference_loss_ = 0;
};

void StepBench::build(const AttentionOptions& attention) {
  ModelConfig config = options_.model;
  config.attention = attention;
  optimizer_.reset(), model_.reset(), fresh_.clear();
  model_ = std::make_unique<Transformer>(config, options_.seed);
  model_->set_checkpointing(options_.checkpointing);
  optimizer_ = std::make_unique<Optimizer>(model_->parameters(), TrainOptions());
  for (const auto& [name, weights] : model_->parameters()) fresh_.push_back(weights.detach().clone());
}

void StepBench::start_afresh(const std::string& attention) {
  const AttentionOptions chosen = attention_variant(attention, options_.model.attention);
  const std::string own = own_parameters(attention, chosen);
  if (model_ == nullptr || own != own_parameters_) build(chosen);
  own_parameters_ = own;
  const at::NoGradGuard no_gradient;
  model_->set_attention(chosen);
  model_->statistics() = {};
  for (std::size_t i = 0; const auto& [name, weights] : model_->parameters()) weights.detach().copy_(fresh_[i++]);
  for (const auto& [name, moment] : optimizer_->state()) moment.zero_();
}

// The gradients of the weights that every attention has, as one vector.
Tensor StepBench::gradient() const {
  std::vector<Tensor> parts;
  for (const auto& [name, weights] : model_->parameters()) {
    if (!name.ends_with("pooler") && !name.starts_with("projections")) parts.push_back(weights.grad().reshape({-1}));
  }
  return at::cat(parts);
}

StepTime StepBench::time_step(const std::string& attention) {
  start_afresh(attention);
  StepTime time;
  time.step = milliseconds([&] {
    result_ = compute_gradients(*model_, *optimizer_, tokens_, /*accumulate=*/1, /*bf16=*/false);
    time.in_optimizer = milliseconds([&] { optimizer_->step(TrainOptions().learning_rate); });
  });
  time.in_attention = 1000 * model_->statistics().seconds;
  return time;
}

double StepBench::time_forward(const std::string& attention) {
  start_afresh(attention);
  const at::NoGradGuard no_gradient;
  return milliseconds([&] { model_->hidden(tokens_.slice(1, 0, tokens_.size(1) - 1)); });
}

void StepBench::measure_memory(StepBenchRow& row) {
  start_afresh(row.attention);
  optimizer_->zero_gradients();
  ::malloc_trim(0);  // what earlier steps freed must not be reused unseen
  const double before = resident_memory_mib();
  if (!forget_peak_memory()) return;
  time_step(row.attention);
  row.peak_memory_mib = peak_memory_mib();
  row.step_memory_mib = row.peak_memory_mib - before;
}

void StepBench::take_reference() {
  time_step("sdpa");
  reference_ = gradient();
  reference_loss_ = result_.loss;
}

void StepBench::check_step(StepBenchRow& row) {
  time_step(row.attention);
  const double norm = at::linalg_vector_norm(reference_).item<double>();
  row.loss = result_.loss;
  row.loss_error = std::abs(row.loss - reference_loss_) / reference_loss_;
  row.gradient_error = at::linalg_vector_norm(gradient().sub_(reference_)).item<double>() / norm;
  row.attended_tokens = model_->statistics().attended_per_call();
  const bool same = sees_everything(row.attention);
  const double allowed = same ? kAllowedLossError : kSparseLossError;
  check(row.loss_error <= allowed, "bench-step: wrong answer of ", row.attention, " at ", row.length,
        " tokens, nothing timed: loss ", row.loss, ", of sdpa ", reference_loss_, "; at most ", allowed,
        " apart, as a share, is right");
  check(std::isfinite(row.gradient_error) && (!same || row.gradient_error <= kAllowedGradientError),
        "bench-step: wrong answer of ", row.attention, " at ", row.length, " tokens, nothing timed: its gradient is ",
        row.gradient_error, " apart from that of sdpa, as a share; at most ", kAllowedGradientError, " is right");
}

StepBenchRow planned_row(const StepBenchOptions& o, Index length, const std::string& attention) {
  StepBenchRow row;
  row.length = length;
  row.attention = attention;
  row.needs_gib = step_memory_gib(o.model, name_of_variant(attention), o.batch, length, o.checkpointing);
  row.available_gib = available_memory_mib() / 1024;
  row.fits = row.available_gib == 0 || row.needs_gib <= row.available_gib;  // 0: unknown
  return row;
}

using Report = std::function<void(const std::string&)>;

// Each attention once, then each again: a machine that slows down slows all.
void time_in_turn(const StepBenchOptions& o, std::vector<StepBenchRow>& rows, StepBench& bench,
                  const std::atomic<bool>& interrupted, const Report& progress) {
  std::vector<std::vector<StepTime>> times(rows.size());
  for (Index repeat = 1; repeat <= o.repeats; ++repeat) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (interrupted) return;
      if (!rows[i].fits) continue;
      times[i].push_back(bench.time_step(rows[i].attention));
      rows[i].steps.push_back(times[i].back().step);
      if (o.forward) rows[i].forwards.push_back(bench.time_forward(rows[i].attention));
      progress(concat(rows[i].length, " tokens: repeat ", repeat, " of ", o.repeats, ", ", rows[i].attention, ": ",
                      std::llround(times[i].back().step), " ms"));
    }
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].fits) continue;
    const StepTime middle = median(times[i]);
    rows[i].step = middle.step;
    rows[i].in_attention = middle.in_attention;
    rows[i].in_optimizer = middle.in_optimizer;
    if (o.forward) rows[i].forward = median(rows[i].forwards);
  }
}

// All rows of a length; none if interrupted.
std::vector<StepBenchRow> bench_length(const StepBenchOptions& o, Index length, StepBench& bench,
                                       const std::atomic<bool>& interrupted, const Report& progress) {
  std::vector<StepBenchRow> rows;
  bool any = false;
  for (const std::string& name : split_list(o.attentions)) {
    rows.push_back(planned_row(o, length, name));
    any = any || rows.back().fits;
  }
  if (!any) return rows;
  bench.set_tokens(tokens_of(o, length));
  progress(concat(length, " tokens: a step with sdpa, to compare with"));
  bench.take_reference();
  for (StepBenchRow& row : rows) {
    if (interrupted) return {};
    if (!row.fits) continue;
    progress(concat(length, " tokens: a step with ", row.attention, ", checked"));
    bench.check_step(row);
    bench.measure_memory(row);
  }
  time_in_turn(o, rows, bench, interrupted, progress);
  return interrupted ? std::vector<StepBenchRow>() : rows;
}

}  // namespace

void check_step_bench_options(const StepBenchOptions& o) {
  parse_lengths(o.lengths);
  ModelConfig model = o.model;
  std::set<std::string> seen;
  for (const std::string& name : split_list(o.attentions)) {
    model.attention = attention_variant(name, o.model.attention);
    check_model_config(model);
    check(model.attention.hsa.tail == 0, "tail is ", model.attention.hsa.tail, ", which has no gradient; 0 is right");
    check(seen.insert(name).second, "attention is ", o.attentions, ", which names ", name, " twice; once is right");
  }
  check(o.batch >= 1 && o.batch <= 1 << 16, "batch is ", o.batch, "; 1 to 65536 is right");
  check(o.threads >= 0 && o.threads <= 4096, "threads is ", o.threads, "; 0 to 4096 is right");
  check(o.repeats >= 1, "repeats is ", o.repeats, "; at least 1 is right");
}

std::vector<StepBenchRow> bench_step(const StepBenchOptions& options, const std::atomic<bool>& interrupted,
                                     const Report& progress) {
  check_step_bench_options(options);
  use_threads(options.threads);
  StepBench bench(options);
  std::vector<StepBenchRow> rows;
  for (const Index length : parse_lengths(options.lengths)) {
    if (interrupted) break;
    for (StepBenchRow& row : bench_length(options, length, bench, interrupted, progress)) rows.push_back(row);
  }
  return rows;
}

}  // namespace hsattn::lm
