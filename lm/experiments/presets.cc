#include "lm/experiments/presets.h"

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

// 15 minutes in all on two cores: whether everything works, and hardly more.
Preset quick() {
  Preset p;
  p.name = "quick";
  p.model = {.layers = 2, .width = 64, .heads = 2};
  p.context = 512, p.batch = 4;
  p.budget = {.window = 32, .top_k = 64, .sinks = 8, .block = 4, .candidates = 256, .top_nodes = 16, .node = 8};
  p.paper_form = {
      .window = 32, .top_k = 64, .sinks = 8, .block = 4, .candidates = 256, .top_nodes = 16, .far_field = true};
  p.rates = {3e-3, 1e-2};
  p.grid_seed = 101, p.grid_steps = 20;
  p.seeds = {1, 2, 3}, p.variant_seeds = {1};
  p.steps = 40, p.eval_windows = 16;
  p.speed_lengths = {512, 2048};
  p.scaling_lengths = {512, 1024, 2048, 4096};
  p.speed_repeats = 3;
  p.pattern_positions = 24, p.explored_queries = 6;
  p.theory_cases = 2000;
  p.tasks = {"recall"};
  p.retrieval_model = {.layers = 2, .width = 64, .heads = 2};
  p.retrieval = {{.length = 256, .batch = 8, .steps = 40}};
  p.retrieval_answers = 1000, p.retrieval_samples = 512;
  p.speed = 40e9;
  return p;
}

// At most 10 hours in all on two cores, each run at most 45 minutes.
Preset small() {
  Preset p;
  p.name = "small";
  p.model = {.layers = 3, .width = 128, .heads = 2, .vocabulary = 2048, .taps = 3};
  p.repeats = {.passage = 110, .from = 128, .to = 4096};
  p.context = 2048, p.batch = 1;
  p.copy_steps = 250, p.short_context = 256, p.short_steps = 400;
  p.budget = {.window = 64, .top_k = 192, .sinks = 8, .block = 4, .candidates = 2048, .top_nodes = 128, .node = 8};
  p.paper_form = {
      .window = 64, .top_k = 192, .sinks = 8, .block = 4, .candidates = 1536, .top_nodes = 128, .far_field = true};
  p.rates = {2e-3, 4e-3, 8e-3};
  p.grid_seed = 101, p.grid_steps = 700;
  p.seeds = {1, 2, 3}, p.variant_seeds = {1, 2, 3};
  p.steps = 700, p.eval_windows = 100;
  p.speed_lengths = {1024, 2048, 4096, 8192};
  p.scaling_lengths = {512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};
  p.speed_repeats = 5;
  p.pattern_positions = 128, p.explored_queries = 12;
  p.theory_cases = 10000;
  p.tasks = {"passkey", "recall", "copy"};
  p.retrieval_model = {.layers = 2, .width = 128, .heads = 2, .taps = 3};
  p.retrieval_copy_steps = 200;
  p.retrieval = {{.length = 512, .batch = 4, .steps = 700},
                 {.length = 2048, .batch = 1, .steps = 200},
                 {.length = 8192, .batch = 1, .steps = 40, .candidates = 8192, .top_nodes = 1024}};
  p.retrieval_answers = 1000, p.retrieval_samples = 4000;
  p.speed = 60e9;
  return p;
}

// The paper's model: speed and memory by a few real steps.
Preset paper() {
  Preset p;
  p.name = "paper";
  p.trains = false;
  p.model = {.layers = 12, .width = 768, .heads = 12, .vocabulary = 50257};
  p.context = 2048, p.batch = 1;
  p.budget = {.window = 128, .top_k = 512, .sinks = 8, .block = 8, .candidates = 2048, .top_nodes = 1024};
  p.paper_form = {
      .window = 128, .top_k = 512, .sinks = 8, .block = 8, .candidates = 2048, .top_nodes = 1024, .far_field = true};
  p.speed_lengths = {2048, 4096};
  p.scaling_lengths = {512, 1024, 2048, 4096, 8192};
  p.speed_repeats = 1;
  p.checkpointing = true;
  p.speed = 100e9;
  return p;
}

}  // namespace

const Preset& preset_named(const std::string& name) {
  static const std::vector<Preset> all = {quick(), small(), paper()};
  for (const Preset& preset : all) {
    if (preset.name == name) return preset;
  }
  throw InvalidArgument("preset is " + name + "; quick, small or paper are right");
}

}  // namespace hsattn::lm
