#include "lm/experiments/lister.h"

#include <algorithm>
#include <cstdio>

#include "hsattn/base/error.h"
#include "lm/experiments/cost.h"
#include "lm/options/lists.h"

namespace hsattn::lm {
namespace {}  // namespace

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

std::string text_of(Index value) { return std::to_string(value); }

std::string folder_of(const std::string& run) { return concat(kWork, "/", run); }

Words words_of(const std::string& change) {
  const std::size_t equal = change.find('=');
  std::string name = concat("--", change.substr(0, equal));
  std::replace(name.begin(), name.end(), '_', '-');
  const std::string value = change.substr(equal + 1);
  if (value == "true" || value == "false") return {concat(name, "=", value)};
  return {name, value};
}

void append(Words& words, const Words& more) { words.insert(words.end(), more.begin(), more.end()); }

bool another_kernel(const std::string& system) { return system == "standard" || system == "sdpa"; }

void Lister::add(ExperimentRun run) {
  const auto same = [&](const ExperimentRun& other) { return other.name == run.name; };
  if (std::none_of(list_.runs.begin(), list_.runs.end(), same)) list_.runs.push_back(std::move(run));
}

void Lister::leave_out(const std::string& line) {
  const auto& lines = list_.left_out;
  if (std::find(lines.begin(), lines.end(), line) == lines.end()) list_.left_out.push_back(line);
}

bool Lister::known(const System& system) {
  if (knows_attention(system.name)) return true;
  leave_out(concat("system ", system.name, " (", system.source, "): this program does not have it; left out"));
  return false;
}

bool Lister::known(const Variant& variant) {
  for (const std::string& change : variant.changes) {
    if (!change.starts_with("pooling=") || knows_pooling(change.substr(8))) continue;
    leave_out(concat("pooling ", change.substr(8), ": this program does not have it; left out"));
    return false;
  }
  return true;
}

double Lister::attended(const std::string& name, Index context) const {
  for (const System& system : systems()) {
    if (name != system.name) continue;
    const auto budget = static_cast<double>(preset_.budget.attended());
    if (system.kind != SystemKind::kFull) return std::min(2 * budget, static_cast<double>(context));  // and the search
  }
  return static_cast<double>(context) * (name == "standard" ? 1.5 : 0.5);  // standard: memory, not arithmetic, is slow
}

void Lister::prepare_text() {
  ExperimentRun run{kTextRun, {{"experiment", "data"}}, {"prepare", text_}, {}, {}, 0.05};
  if (preset_.model.vocabulary > ModelSize().vocabulary) {
    const std::string file = concat(folder_of(kTokenizerRun), ".json");
    add({kTokenizerRun,
         {{"experiment", "data"}},
         {"tokenizer", "train", text_, "--vocabulary", text_of(preset_.model.vocabulary), "--out", file},
         {},
         {},
         0.1});
    append(run.words, {"--tokenizer", file});
    run.needs.push_back(kTokenizerRun);
  }
  const Repeats& again = preset_.repeats;
  if (again.passage > 0) {
    append(run.words, {"--repeat-passages", text_of(again.passage)});
    append(run.words, {"--repeat-from", text_of(again.from), "--repeat-to", text_of(again.to)});
  }
  if (!held_out_.empty()) append(run.words, {"--held-out", held_out_});
  append(run.words, {"--out", folder_of(kTextRun)});
  add(std::move(run));
}

Training Lister::text_training(const std::string& system) const {
  return {system,          {},
          preset_.model,   kTextRun,
          preset_.context, preset_.batch,
          preset_.steps,   preset_.eval_windows,
          preset_.budget,  first_steps(preset_.copy_steps, preset_.short_steps)};
}

// Random tokens to copy, and short windows, in so many steps; of neither if 0.
Words Lister::first_steps(Index copying, Index in_short) const {
  Words words;
  if (copying > 0) append(words, {"--copy-steps", text_of(copying)});
  if (in_short > 0) {
    append(words, {"--short-context", text_of(preset_.short_context), "--short-steps", text_of(in_short)});
  }
  return words;
}

Words Lister::train_words(const std::string& name, const Training& t, Index seed, const std::string& rate) const {
  Words words = {"train", "--data", folder_of(t.data), "--run", folder_of(name)};
  append(words, attention_arguments(t.system, t.budget));
  for (const std::string& change : t.changes) append(words, words_of(change));
  append(words,
         {"--layers", text_of(t.model.layers), "--width", text_of(t.model.width), "--heads", text_of(t.model.heads)});
  if (t.model.taps > 0) append(words, {"--taps", text_of(t.model.taps)});
  append(words, {"--context", text_of(t.context), "--batch", text_of(t.batch), "--steps", text_of(t.steps)});
  append(words,
         {"--warmup", text_of(std::max<Index>(t.steps / 10, 1)), "--learning-rate", rate, "--seed", text_of(seed)});
  append(words, {"--eval-windows", text_of(t.eval_windows), "--save-every", text_of(std::max<Index>(t.steps / 10, 1))});
  if (t.system == "linformer") {  // retrieval goes on to longer contexts with the same projections
    append(words, {"--longest", text_of(t.data == kTextRun ? t.context : preset_.retrieval.back().length)});
  }
  append(words, t.more);
  append(words, {"--keep", "1", "--json"});
  return words;
}

ExperimentRun Lister::train_run(const std::string& name, const Training& t, Index seed, const std::string& rate,
                                nlohmann::ordered_json labels) const {
  const double sees = attended(t.system, t.context);
  const double minutes = expected_minutes(preset_, t.model, t.steps * t.batch * t.context, sees, kTrainingPasses) +
                         expected_minutes(preset_, t.model, t.eval_windows * t.context, sees, kReadingPasses);
  labels["system"] = t.system;
  labels["seed"] = seed;
  return {name, std::move(labels), train_words(name, t, seed, rate), {t.data}, {}, minutes};
}

// The learning rates, one short run each; names of the runs.
std::vector<std::string> Lister::grid(const std::string& experiment, const Training& t) {
  Training brief = t;
  brief.steps = std::min(preset_.grid_steps, t.steps);
  std::vector<std::string> names;
  for (const double rate : preset_.rates) {
    names.push_back(concat(experiment, "/", t.system, "/rate-", text_of(rate)));
    add(train_run(names.back(), brief, preset_.grid_seed, text_of(rate),
                  {{"experiment", experiment}, {"part", "grid"}, {"rate", rate}}));
  }
  return names;
}

// Long sequences take long and vary little.
Index Lister::repeats_at(Index length) const {
  return std::clamp<Index>(preset_.speed_repeats * 8192 / length, 1, preset_.speed_repeats);
}

// A step of SDPA to compare with; of each attention one step checked, one for its memory, then steps and forward passes
// in turn.
double Lister::timing_minutes(const std::string& attentions, Index length, Index repeats) const {
  constexpr double kForward = 1.0 / 3;
  constexpr Index kStandardFits = 8192;
  const double start = expected_minutes(preset_, preset_.model, 0, 0, 0);
  const auto step = [&](const std::string& name) {
    return expected_minutes(preset_, preset_.model, length, attended(name, length), kTrainingPasses) - start;
  };
  double minutes = start + step("sdpa");
  for (const std::string& text : split_list(attentions)) {
    const std::string name = text.substr(0, text.find(':'));
    if (name == "standard" && length > kStandardFits) continue;
    minutes += step(name) * (2 + static_cast<double>(repeats) * (1 + kForward));
  }
  return minutes;
}

void Lister::time_steps(const std::string& name, nlohmann::ordered_json labels, const std::string& attentions,
                        Index length, const Budget& b) {
  Words words = {"bench-step", "--attention", attentions, "--lengths", text_of(length), "--forward"};
  append(words, {"--layers", text_of(preset_.model.layers), "--width", text_of(preset_.model.width)});
  append(words, {"--heads", text_of(preset_.model.heads), "--vocabulary", text_of(preset_.model.vocabulary)});
  if (preset_.model.taps > 0) append(words, {"--taps", text_of(preset_.model.taps)});
  append(words, {"--preset", preset_of_hsa(b), "--window", text_of(b.window), "--top-k", text_of(b.top_k), "--sinks",
                 text_of(b.sinks)});
  append(words,
         {"--block", text_of(b.block), "--candidates", text_of(b.candidates), "--top-nodes", text_of(b.top_nodes)});
  if (b.node > 0) append(words, {"--node", text_of(b.node)});
  append(words, {"--dense-until", "0", "--repeats", text_of(repeats_at(length)), "--threads", "0"});
  if (preset_.checkpointing) append(words, {"--checkpointing"});
  append(words, {"--json"});
  const double minutes = timing_minutes(attentions, length, repeats_at(length));
  add({name, std::move(labels), std::move(words), {}, {}, minutes});
}

}  // namespace hsattn::lm
