// The lists of experiments are fair and as short as they promise; the bound of pooled softmax holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <sstream>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/data/tasks.h"
#include "lm/data/token_file.h"
#include "lm/experiments/child.h"
#include "lm/experiments/pooled_error.h"
#include "lm/experiments/reproduce.h"
#include "lm/experiments/systems.h"
#include "lm/options/variants.h"
#include "lm/train/options.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using test::message_of;
using test::TemporaryFolder;

RunList all_runs(const char* preset) { return list_runs("all", preset_named(preset), "text", "held_out"); }

std::string value_of(const ExperimentRun& run, const std::string& option) {
  const auto found = std::find(run.words.begin(), run.words.end(), option);
  return found == run.words.end() ? "" : *(found + 1);
}

TEST(RunList, EachRunComesAfterAllItNeedsAndHasANameOfItsOwn) {
  for (const char* preset : {"quick", "small", "paper"}) {
    std::set<std::string> before;
    for (const ExperimentRun& run : all_runs(preset).runs) {
      for (const auto* names : {&run.needs, &run.grid}) {
        for (const std::string& name : *names) EXPECT_TRUE(before.contains(name)) << run.name << " needs " << name;
      }
      EXPECT_TRUE(before.insert(run.name).second) << run.name;
    }
    EXPECT_FALSE(before.empty());
  }
}

TEST(RunList, TakesNoLongerThanPromised) {
  const struct {
    const char* preset;
    double all, one;
  } promises[] = {{"quick", 15, 5}, {"small", 600, 45}};
  for (const auto& promise : promises) {
    double minutes = 0;
    for (const ExperimentRun& run : all_runs(promise.preset).runs) {
      EXPECT_LE(run.minutes, promise.one) << run.name;
      EXPECT_GT(run.minutes, 0) << run.name;
      minutes += run.minutes;
    }
    // Systems that this program does not have yet cost what HSA does.
    const RunList list = all_runs(promise.preset);
    const auto missing = std::count_if(list.left_out.begin(), list.left_out.end(),
                                       [](const std::string& line) { return line.starts_with("system"); });
    for (const ExperimentRun& run : list.runs) {
      const bool hsa =
          run.labels.contains("system") && run.labels["system"] == "hsa" && !run.labels.contains("variant");
      if (hsa) minutes += static_cast<double>(missing) * run.minutes;
    }
    EXPECT_LE(minutes, promise.all) << promise.preset;
  }
}

// bench-step refuses a name that stands twice.
TEST(RunList, TimesEachVariantOnce) {
  for (const char* preset : {"quick", "small", "paper"}) {
    for (const ExperimentRun& run : all_runs(preset).runs) {
      if (run.words.front() != "bench-step") continue;
      std::istringstream names(value_of(run, "--attention"));
      std::set<std::string> before;
      for (std::string name; std::getline(names, name, ',');)
        EXPECT_TRUE(before.insert(name).second) << run.name << " times " << name << " twice";
      EXPECT_FALSE(before.empty());
    }
  }
}

TEST(RunList, TrainsNothingTwice) {
  for (const char* preset : {"quick", "small"}) {
    std::map<std::vector<std::string>, std::string> trained;
    for (const ExperimentRun& run : all_runs(preset).runs) {
      if (!run.trains()) continue;
      std::vector<std::string> words = run.words;
      std::erase(words, concat(kWork, "/", run.name));
      const auto [before, is_new] = trained.emplace(words, run.name);
      EXPECT_TRUE(is_new) << run.name << " is the training of " << before->second;
    }
    EXPECT_FALSE(trained.empty());
  }
}

TEST(RunList, PaperTrainsNothing) {
  for (const ExperimentRun& run : all_runs("paper").runs) EXPECT_EQ(run.words[0], "bench-step") << run.name;
  EXPECT_NE(message_of([] { list_runs("theory", preset_named("paper"), "", ""); }).find("speed and memory"),
            std::string::npos);
}

// All that is not the attention's own is the same for each system of a seed.
TEST(RunList, SystemsDifferInTheirAttentionAlone) {
  const Preset& preset = preset_named("small");
  std::map<std::string, std::set<std::vector<std::string>>> rest_by_seed;
  std::size_t systems_seen = 0;
  for (const ExperimentRun& run : list_runs("table51", preset, "text", "").runs) {
    if (!run.labels.contains("part") || run.labels["part"] != "seeds") continue;
    if (run.labels.contains("weights_of")) continue;  // a trained model, read again
    ++systems_seen;
    std::vector<std::string> rest = run.words;
    const auto own = attention_arguments(run.labels["system"], preset.budget);
    const auto found = std::search(rest.begin(), rest.end(), own.begin(), own.end());
    ASSERT_NE(found, rest.end()) << run.name;
    rest.erase(found, found + static_cast<std::ptrdiff_t>(own.size()));
    const auto longest = std::find(rest.begin(), rest.end(), "--longest");  // linformer's size
    if (longest != rest.end()) rest.erase(longest, longest + 2);
    std::erase_if(rest, [&](const std::string& word) { return word.find(run.name) != std::string::npos; });
    rest_by_seed[value_of(run, "--seed")].insert(rest);
    EXPECT_EQ(run.grid.size(), preset.rates.size()) << "one grid for each";
  }
  EXPECT_EQ(rest_by_seed.size(), preset.seeds.size());
  EXPECT_GE(systems_seen, 3 * preset.seeds.size());
  for (const auto& [seed, rest] : rest_by_seed) EXPECT_EQ(rest.size(), 1u) << "seed " << seed;
}

TEST(Systems, SparseOnesAttendEquallyMany) {
  const Budget budget = preset_named("small").budget;
  for (const System& system : systems()) {
    if (system.kind != SystemKind::kSparse) continue;
    const std::vector<std::string> words = attention_arguments(system.name, budget);
    Index attended = 0;
    for (std::size_t i = 0; i + 1 < words.size(); ++i) {
      if (words[i] == "--window" || words[i] == "--top-k" || words[i] == "--sinks")
        attended += std::stoll(words[i + 1]);
    }
    EXPECT_EQ(attended, budget.attended()) << system.name;
  }
}

TEST(RunList, NamesWhatIsWrong) {
  EXPECT_NE(message_of([] { preset_named("huge"); }).find("quick, small or paper"), std::string::npos);
  EXPECT_NE(message_of([] { list_runs("tables", preset_named("quick"), "", ""); }).find("table51, scaling"),
            std::string::npos);
  const RunList list = all_runs("quick");
  EXPECT_NE(message_of([&] { only_runs(list, {"no such run"}); }).find("--dry-run"), std::string::npos);
}

TEST(RunList, APartBringsWhatItNeeds) {
  const RunList list = only_runs(all_runs("quick"), {"table51/hsa/seed-2"});
  std::vector<std::string> names;
  for (const ExperimentRun& run : list.runs) names.push_back(run.name);
  EXPECT_EQ(names, (std::vector<std::string>{"data/text", "table51/hsa/rate-0.003", "table51/hsa/rate-0.01",
                                             "table51/hsa/seed-2"}));
}

class Results : public testing::Test {
 protected:
  void write(const ExperimentRun& run, const nlohmann::ordered_json& loss) const {
    results_.write(run, {{"words", run.words}, {"seconds", 60}, {"numbers", {{"eval_loss", loss}}}});
  }
  ExperimentRun rate_run(const std::string& name, const std::string& rate) const {
    ExperimentRun run;
    run.name = name, run.words = {"train", "--learning-rate", rate};
    return run;
  }

  TemporaryFolder folder_;
  ResultFolder results_{folder_.file("results")};
};

TEST_F(Results, TheRateWithTheLowestLossIsChosen) {
  const std::vector<ExperimentRun> grid = {rate_run("a", "0.1"), rate_run("b", "0.2"), rate_run("c", "0.4")};
  write(grid[0], 2.5), write(grid[1], 2.25);
  EXPECT_NE(message_of([&] { best_rate(results_, grid); }).find("c.json"), std::string::npos);
  write(grid[2], nullptr);  // a loss that was not finite is no choice
  EXPECT_EQ(best_rate(results_, grid), "0.2");
  EXPECT_NE(message_of([&] { best_rate(results_, {grid[2]}); }).find("no learning rate"), std::string::npos);
}

TEST_F(Results, AResultOfOtherWordsDoesNotCount) {
  ExperimentRun run = rate_run("table/a", "0.1");
  write(run, 1.5);
  EXPECT_TRUE(results_.result_of(run));
  run.words.push_back("--steps");
  EXPECT_FALSE(results_.result_of(run));
  EXPECT_EQ(plan_of_runs({{run}, {}}, results_)[0].state, RunState::kOutdated);
  folder_.write("results/table/a.json", "{\"half");
  EXPECT_NE(message_of([&] { results_.result_of(run); }).find("a.json"), std::string::npos);
}

// What was read from a model does not outlive a change of its training, however far up.
TEST_F(Results, AResultOfAnotherModelDoesNotCount) {
  ExperimentRun data = rate_run("data", "0.1"), model = rate_run("model", "0.1"), reads = rate_run("reads", "0.1");
  model.needs = {"data"}, reads.needs = {"model"};
  RunList list{{data, model, reads}, {}};
  note_inputs(list);
  EXPECT_TRUE(list.runs[0].inputs.empty());
  for (const ExperimentRun& run : list.runs) {
    results_.write(run, {{"words", run.words}, {"inputs", run.inputs}, {"seconds", 60}, {"numbers", {{"x", 1}}}});
    make_folder(results_.work_of(run.name));
  }
  for (const PlannedRun& run : plan_of_runs(list, results_)) EXPECT_EQ(run.state, RunState::kDone) << run.run.name;
  list.runs[0].words.push_back("--steps");
  note_inputs(list);
  for (const PlannedRun& run : plan_of_runs(list, results_)) EXPECT_EQ(run.state, RunState::kOutdated) << run.run.name;
}

// As in a fresh clone: results are there, the model that a run reads is not.
TEST_F(Results, AModelThatIsNeededIsMadeAgain) {
  ExperimentRun model = rate_run("model", "0.1"), reads = rate_run("reads", "0.1");
  reads.needs = {"model"};
  write(model, 1.5);
  EXPECT_EQ(plan_of_runs({{model}, {}}, results_)[0].state, RunState::kDone);
  EXPECT_EQ(plan_of_runs({{model, reads}, {}}, results_)[0].state, RunState::kWaiting);
  make_folder(results_.work_of("model"));
  EXPECT_EQ(plan_of_runs({{model, reads}, {}}, results_)[0].state, RunState::kDone);
}

TEST(Child, ShellTextIsWhatAShellReads) {
  EXPECT_EQ(shell_text({"a", "b c", "it's", "", "--x=1"}), "a 'b c' 'it'\\''s' '' --x=1");
}

TEST(Variants, SetWhatTheyName) {
  const AttentionOptions base;
  const AttentionOptions options = attention_variant("hsa:levels=3:far_field=false", base);
  EXPECT_EQ(options.attention, "hsa");
  EXPECT_EQ(options.hsa.levels, 3);
  EXPECT_FALSE(options.hsa.far_field);
  EXPECT_EQ(options.hsa.top_k, base.hsa.top_k);
  const struct {
    const char *text, *says;
  } cases[] = {{"hsa:levels", "option=value"}, {"hsa:level=1", "no option level"}, {"hsa:levels=x", "whole number"}};
  for (const auto& c : cases) {
    EXPECT_NE(message_of([&] { attention_variant(c.text, base); }).find(c.says), std::string::npos) << c.text;
  }
}

TEST(TrainOptions, TheFirstStepsHaveALargerBudget) {
  TrainOptions options;
  options.model.attention.hsa.top_k = 64, options.model.attention.hsa.candidates = 256;
  options.first_top_k = 128, options.first_steps = 10;
  EXPECT_EQ(attention_at(options, 10).hsa.top_k, 128);
  EXPECT_EQ(attention_at(options, 10).hsa.candidates, 512);
  EXPECT_EQ(attention_at(options, 11).hsa.top_k, 64);
}

TEST(TrainOptions, ShortWindowsHoldAsManyTokensAStep) {
  TrainOptions options;
  options.data = "data", options.run = "run";
  options.context = 2048, options.batch = 3, options.short_context = 256, options.short_steps = 10;
  check_train_options(options);
  EXPECT_EQ(windows_at(options, 10).context, 256);
  EXPECT_EQ(windows_at(options, 10).batch, 24);
  EXPECT_EQ(windows_at(options, 11).context, 2048);
  EXPECT_EQ(windows_at(options, 11).batch, 3);
  options.aligned = true;
  EXPECT_NE(message_of([&] { check_train_options(options); }).find("aligned"), std::string::npos);
  options.copy_steps = 10;  // random tokens have no samples
  check_train_options(options);
  options.copy_steps = 0, options.aligned = false;
  for (const Index wrong : {0, 100, 4096}) {
    options.short_context = wrong;
    EXPECT_NE(message_of([&] { check_train_options(options); }).find(concat("short_context is ", wrong)),
              std::string::npos);
  }
}

TEST(Tasks, EveryQuestionAsksForAFactOfItsSample) {
  const TemporaryFolder folder;
  for (const char* name : {"passkey", "recall", "copy"}) {
    TaskOptions options;
    options.task = name, options.length = 512, options.samples = 3, options.held_out = 2,
    options.out = folder.file(name);
    write_task(options);
    const TokenFile text(options.out + "/train.tokens");
    ASSERT_EQ(text.tokens(), 3 * 512) << name;
    for (Index i = 0; i < 3; ++i) {
      EXPECT_EQ(text.document_starts()[static_cast<std::size_t>(i)], static_cast<std::uint64_t>(512 * i));
      std::vector<std::int64_t> tokens(512);
      text.copy(512 * i, tokens);
      const std::string sample(tokens.begin(), tokens.end());
      const std::vector<Answer> answers = answers_in(tokens);
      EXPECT_GE(answers.size(), 4u);
      for (const Answer& answer : answers) {
        const auto mark = static_cast<std::size_t>(answer.begin - 1), question = sample.rfind('?', mark);
        const std::string tag = sample.substr(question + 1, mark - question - 1),
                          value = sample.substr(mark + 1, static_cast<std::size_t>(answer.end - answer.begin));
        EXPECT_EQ(sample.find(concat(tag, ":", value, ";")), question - static_cast<std::size_t>(answer.distance))
            << name;
      }
    }
    std::vector<std::int64_t> held_out(512), trained(512);
    TokenFile(options.out + "/heldout.tokens").copy(0, held_out);
    text.copy(0, trained);
    EXPECT_NE(held_out, trained);
  }
  TaskOptions options;
  options.out = folder.file("x"), options.length = 80;
  EXPECT_NE(message_of([&] { write_task(options); }).find("length is 80"), std::string::npos);
  options.task = "guess";
  EXPECT_NE(message_of([&] { write_task(options); }).find("passkey, recall or copy"), std::string::npos);
}

// Two tokens in a node, opposite values, scores +-range/2: what docs/theory.md works out by hand.
TEST(PooledError, IsTanhOfAQuarterOfTheRangeForTwoTokens) {
  for (const double range : {0.1, 1.0, 8.0}) {
    const PooledRow row{{range / 2, -range / 2}, {1, -1}, 1, {0, 2}};
    const PooledError result = pooled_error(row);
    EXPECT_NEAR(result.error, std::tanh(range / 2), 1e-12);
    EXPECT_NEAR(result.bound, 2 * std::tanh(range / 4), 1e-12);
    EXPECT_DOUBLE_EQ(result.alpha, range);
    EXPECT_DOUBLE_EQ(result.mass, 1);
  }
}

TEST(PooledError, IsZeroWithoutPooling) {
  const PooledError result = pooled_error({{3, -1, 2}, {1, 5, -2}, 1, {0, 1, 2, 3}});
  EXPECT_LT(result.error, 1e-15);
  EXPECT_EQ(result.bound, 0);
}

TEST(PooledError, TheBoundHoldsAndHalfOfItDoesNot) {
  std::size_t exceeded = 0, half_exceeded = 0;
  constexpr Index kRows = 2000;
  for (Index i = 0; i < kRows; ++i) {
    const PooledError result = pooled_error(random_row(i, 7));
    const double rounding = 1e-12 * result.diameter;
    exceeded += result.error > result.bound * (1 + 1e-9) + rounding;
    half_exceeded += result.error > result.bound / 2 + rounding;
  }
  EXPECT_EQ(exceeded, 0u);
  EXPECT_GT(half_exceeded, 0u) << "a bound half as large must fail, or the rows try nothing";
}

}  // namespace
}  // namespace hsattn::lm
