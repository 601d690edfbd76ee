// The runs of each experiment.
#include <algorithm>
#include <set>

#include "hsattn/base/error.h"
#include "lm/experiments/cost.h"
#include "lm/experiments/lister.h"

namespace hsattn::lm {

// The models of `trained`, read with `attention`, in place of as long a training again.
void Lister::read_again(const std::string& name, nlohmann::ordered_json labels, const std::string& trained,
                        const std::string& attention, Index seed) {
  const std::string model = concat(trained, "/seed-", seed);
  Words words = {"eval", "--model", folder_of(model), "--data", folder_of(kTextRun)};
  if (another_kernel(attention)) append(words, {"--attention", attention});
  append(words,
         {"--context", std::to_string(preset_.context), "--windows", std::to_string(preset_.eval_windows), "--json"});
  const double minutes = expected_minutes(preset_, preset_.model, preset_.eval_windows * preset_.context,
                                          attended(attention, preset_.context), kReadingPasses);
  labels.update({{"system", attention}, {"seed", seed}, {"weights_of", trained}});
  add({concat(name, "/seed-", seed), std::move(labels), words, {model}, {}, minutes});
}

void Lister::table51() {
  std::string names;
  for (const System& system : systems()) {
    if (!known(system)) continue;
    names += concat(names.empty() ? "" : ",", system.name);
    // At equal budget, HSA's neighbours attend a window of their own.
    if (std::string(system.name) == "local") names += concat(":window=", preset_.budget.attended());
    if (!preset_.trains) continue;
    if (another_kernel(system.name)) {  // the same function as full's
      for (const Index seed : preset_.seeds) {
        read_again(concat("table51/", system.name), {{"experiment", "table51"}, {"part", "seeds"}}, "table51/full",
                   system.name, seed);
      }
      continue;
    }
    const Training t = text_training(system.name);
    const std::vector<std::string> rates = grid("table51", t);
    for (const Index seed : preset_.seeds) {
      ExperimentRun run = train_run(concat("table51/", system.name, "/seed-", seed), t, seed, kRate,
                                    {{"experiment", "table51"}, {"part", "seeds"}});
      run.grid = rates;
      add(std::move(run));
    }
  }
  for (const Index n : preset_.speed_lengths) {
    std::string here = names;
    const std::size_t linformer = here.find("linformer");
    if (linformer != std::string::npos) here.insert(linformer + 9, concat(":longest=", n));
    time_steps(concat("table51/speed/", n), {{"experiment", "table51"}, {"part", "speed"}, {"length", n}}, here, n,
               preset_.budget);
  }
}

void Lister::scaling() {
  for (const Index n : preset_.scaling_lengths) {
    time_steps(concat("scaling/", n), {{"experiment", "scaling"}, {"length", n}}, "hsa,sdpa,standard", n,
               preset_.budget);
  }
}

void Lister::variants(const char* experiment, const std::vector<Variant>& rows) {
  if (preset_.trains) train_paper_form();
  std::string names;
  std::set<std::string> timed;  // each once: what changes the training alone is timed as it is without
  for (const Variant& variant : rows) {
    if (!known(variant)) continue;
    std::string name = "hsa";
    for (const std::string& change : variant.changes) {
      if (!change.starts_with("first_")) name += concat(":", change);
    }
    if (timed.insert(name).second) names += concat(names.empty() ? "" : ",", name);
    if (!preset_.trains) continue;
    const nlohmann::ordered_json labels = {
        {"experiment", experiment}, {"part", "seeds"}, {"variant", variant.name}, {"shows", variant.shows}};
    const std::string row = concat(experiment, "/", variant.name);
    for (const Index seed : preset_.variant_seeds) {
      if (variant.name == kTable51) {
        read_again(row, labels, "table51/hsa", "hsa", seed);
      } else if (variant.changes.empty() && row != kPaperForm) {
        read_again(row, labels, kPaperForm, "hsa", seed);
      } else {
        train_variant(row, variant.changes, seed, labels);
      }
    }
  }
  time_steps(concat(experiment, "/speed"), {{"experiment", experiment}, {"part", "speed"}}, names, preset_.context,
             preset_.paper_form);
}

// A variant of the paper's form, with the rate that is best for that form itself.
void Lister::train_variant(const std::string& row, const std::vector<std::string>& changes, Index seed,
                           nlohmann::ordered_json labels) {
  Training t = text_training("hsa");
  t.budget = preset_.paper_form;
  const std::vector<std::string> rates = grid("pooling", t);
  t.changes = changes;
  ExperimentRun run = train_run(concat(row, "/seed-", seed), t, seed, kRate, std::move(labels));
  run.grid = rates;
  add(std::move(run));
}

// The form itself, which more than one experiment reads.
void Lister::train_paper_form() {
  const Variant base = ablation_variants(preset_).front();
  for (const Index seed : preset_.variant_seeds) {
    train_variant(kPaperForm, base.changes, seed,
                  {{"experiment", "pooling"}, {"part", "seeds"}, {"variant", base.name}, {"shows", base.shows}});
  }
}

void Lister::levels() { variants("levels", level_variants()); }
void Lister::pooling() { variants("pooling", ablation_variants(preset_)); }

void Lister::patterns() {
  train_paper_form();
  const std::string first = std::to_string(preset_.seeds.front());
  struct Reading {
    const char *name, *models;
    Budget budget;
  };
  for (const Reading& r :
       {Reading{"hsa", "table51/hsa", preset_.budget}, Reading{"full", "table51/full", preset_.budget},
        Reading{"paper", kPaperForm, preset_.paper_form}}) {
    const std::string model = concat(r.models, "/seed-", first);
    Words words = {"patterns", "--model", folder_of(model), "--text", folder_of(kTextRun) + "/heldout.tokens"};
    append(words,
           {"--context", std::to_string(preset_.context), "--positions", std::to_string(preset_.pattern_positions)});
    append(words, {"--explore", std::to_string(preset_.explored_queries)});
    append(words, attention_arguments("hsa", r.budget));
    append(words, {"--json"});
    const double rows = 40.0 * static_cast<double>(preset_.pattern_positions * preset_.context);  // measured: slow rows
    const double minutes = expected_minutes(preset_, preset_.model, preset_.context, rows / 100, kReadingPasses);
    add({concat("patterns/", r.name),
         {{"experiment", "patterns"}, {"trained_with", r.name}},
         words,
         {model},
         {},
         minutes});
  }
}

void Lister::theory() {
  const std::string model = concat(kPaperForm, "/seed-", preset_.seeds.front());  // has pooled nodes
  const Words cases = {"--cases", std::to_string(preset_.theory_cases), "--json"};
  Words random = {"theory"}, trained = {"theory", "--model", folder_of(model), "--text"};
  append(random, cases);
  append(trained, {folder_of(kTextRun) + "/heldout.tokens", "--context", std::to_string(preset_.context)});
  append(trained, cases);
  const double minutes = 0.1 + static_cast<double>(preset_.theory_cases) / 20000;
  add({"theory/random", {{"experiment", "theory"}, {"cases", "random"}}, random, {}, {}, minutes});
  add({"theory/trained", {{"experiment", "theory"}, {"cases", "trained"}}, trained, {model}, {}, minutes});
}

void Lister::retrieve(const std::string& task, const RetrievalSize& size, const System& system) {
  const std::string base = concat("retrieval/", task, "-", size.length), data = concat("data/", task, "-", size.length);
  Training t{system.name,
             {},
             preset_.retrieval_model,
             data,
             size.length,
             size.batch,
             size.steps,
             4,
             preset_.budget,
             {"--answers-only", "--aligned"}};
  if (size.candidates > 0) t.budget.candidates = size.candidates;
  if (size.top_nodes > 0) t.budget.top_nodes = size.top_nodes;
  const auto* shorter = &size == preset_.retrieval.data() ? nullptr : &size - 1;
  const Index copying = shorter == nullptr ? preset_.retrieval_copy_steps : 0;
  append(t.more, first_steps(copying, copying));
  const Index seed = preset_.seeds.front();
  const nlohmann::ordered_json labels = {{"experiment", "retrieval"}, {"task", task}, {"length", size.length}};
  // One rate for all: the middle one of the grid.
  ExperimentRun train = train_run(concat(base, "/", system.name, "/model"), t, seed,
                                  text_of(preset_.rates[preset_.rates.size() / 2]), labels);
  train.labels["part"] = "training";
  if (shorter != nullptr) {
    train.needs.push_back(concat("retrieval/", task, "-", shorter->length, "/", system.name, "/model"));
    train.words.insert(train.words.end() - 1, {"--init", folder_of(train.needs.back())});
  }
  const Words read = {"recall",
                      "--model",
                      folder_of(train.name),
                      "--data",
                      folder_of(data),
                      "--context",
                      std::to_string(size.length),
                      "--answers",
                      std::to_string(preset_.retrieval_answers),
                      "--json"};
  ExperimentRun recall{concat(base, "/", system.name, "/answers"), labels, read, {train.name}, {}, 0};
  recall.labels["part"] = "answers";
  recall.labels["system"] = system.name;
  recall.minutes = expected_minutes(preset_, preset_.retrieval_model, preset_.retrieval_answers * size.length / 4,
                                    attended(system.name, size.length), kReadingPasses);
  add(std::move(train));
  add(std::move(recall));
}

void Lister::retrieval() {
  for (const RetrievalSize& size : preset_.retrieval) {  // short ones first: the longer go on from their models
    for (const std::string& task : preset_.tasks) {
      const std::string name = concat("data/", task, "-", size.length);
      const Words words = {"task",
                           "--task",
                           task,
                           "--length",
                           std::to_string(size.length),
                           "--samples",
                           std::to_string(preset_.retrieval_samples),
                           "--out",
                           folder_of(name)};
      add({name, {{"experiment", "data"}}, words, {}, {}, 0.05});
      for (const System& system : systems()) {
        if (!another_kernel(system.name) && known(system)) retrieve(task, size, system);
      }
    }
  }
}

}  // namespace hsattn::lm
