#include "lm/experiments/run_list.h"

#include <algorithm>
#include <map>
#include <set>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/experiments/lister.h"

namespace hsattn::lm {
namespace {

struct Experiment {
  std::string name;
  bool needs_training;
  void (Lister::*list)();
};

const std::vector<Experiment>& experiments() {
  static const std::vector<Experiment> all = {
      {"table51", false, &Lister::table51},   {"scaling", false, &Lister::scaling},
      {"patterns", true, &Lister::patterns},  {"levels", false, &Lister::levels},
      {"pooling", false, &Lister::pooling},   {"theory", true, &Lister::theory},
      {"retrieval", true, &Lister::retrieval}};
  return all;
}

// Marks a run and all that it needs.
void mark(const RunList& list, const std::string& name, std::set<std::string>& marked) {
  const auto found =
      std::find_if(list.runs.begin(), list.runs.end(), [&](const auto& run) { return run.name == name; });
  check(found != list.runs.end(), "reproduce: a run needs ", name, ", which is not listed");
  if (!marked.insert(name).second) return;
  for (const std::string& other : found->needs) mark(list, other, marked);
  for (const std::string& other : found->grid) mark(list, other, marked);
}

template <class Wanted>
RunList filtered(const RunList& list, const Wanted& wanted) {
  std::set<std::string> marked;
  for (const ExperimentRun& run : list.runs) {
    if (wanted(run)) mark(list, run.name, marked);
  }
  RunList some;
  some.left_out = list.left_out;
  std::copy_if(list.runs.begin(), list.runs.end(), std::back_inserter(some.runs),
               [&](const ExperimentRun& run) { return marked.contains(run.name); });
  return some;
}

}  // namespace

void note_inputs(RunList& list) {
  std::map<std::string, const ExperimentRun*> before;
  for (ExperimentRun& run : list.runs) {
    Fnv64 hash;
    const auto add = [&](const std::string& text) { hash.add(text.c_str(), text.size() + 1); };
    for (const auto* names : {&run.needs, &run.grid}) {
      for (const std::string& name : *names) {
        const ExperimentRun& other = *before.at(name);
        for (const std::string& word : other.words) add(word);
        add(other.inputs);
      }
    }
    if (!run.needs.empty() || !run.grid.empty()) run.inputs = hex64(hash.value());
    before[run.name] = &run;
  }
}

const std::vector<std::string>& experiment_names() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names;
    for (const Experiment& e : experiments()) names.push_back(e.name);
    return names;
  }();
  return all;
}

RunList list_runs(const std::string& name, const Preset& preset, const std::string& text, const std::string& held_out) {
  Lister lister(preset, text, held_out);
  if (preset.trains) lister.prepare_text();
  bool found = name == "all";
  for (const Experiment& e : experiments()) {
    found = found || name == e.name;
    check(name != e.name || preset.trains || !e.needs_training, "experiment is ", name, ", which trains; preset ",
          preset.name, " has speed and memory alone: table51, scaling, levels or pooling are right");
    // All trained models are listed, so that those an experiment needs are there.
    if (preset.trains || !e.needs_training) (lister.*e.list)();
  }
  if (!found) {
    std::string names;
    for (const std::string& known : experiment_names()) names += known + ", ";
    throw InvalidArgument("experiment is " + name + "; " + names + "or all are right");
  }
  RunList all = lister.take();
  note_inputs(all);
  return filtered(all, [&](const ExperimentRun& run) { return name == "all" || run.labels["experiment"] == name; });
}

RunList only_runs(const RunList& list, const std::vector<std::string>& wanted) {
  RunList some = filtered(list, [&](const ExperimentRun& run) {
    return wanted.empty() || std::any_of(wanted.begin(), wanted.end(), [&](const std::string& part) {
             return run.name.find(part) != std::string::npos;
           });
  });
  check(!some.runs.empty(), "only names no run; --dry-run lists them");
  return some;
}

}  // namespace hsattn::lm
