// Building blocks of the list of runs, for run_list.cc alone. No torch here.
#pragma once

#include "lm/experiments/run_list.h"
#include "lm/experiments/systems.h"

namespace hsattn::lm {

using Words = std::vector<std::string>;

constexpr double kTrainingPasses = 3, kReadingPasses = 1;
constexpr const char* kTextRun = "data/text";            ///< prepares the text
constexpr const char* kPaperForm = "pooling/base";       ///< trains HSA in the paper's form
constexpr const char* kTokenizerRun = "data/tokenizer";  ///< for models of more tokens than bytes

/// A number as --option value.
std::string text_of(double value);
std::string text_of(Index value);
/// Where a run leaves what others read.
std::string folder_of(const std::string& run);
/// "name=value" as words of a command line.
Words words_of(const std::string& change);
void append(Words& words, const Words& more);
/// Full attention as `full` computes it, but by another kernel.
bool another_kernel(const std::string& system);

// What is trained: a system, or a variant of HSA.
struct Training {
  std::string system;
  std::vector<std::string> changes;
  ModelSize model;
  std::string data;  // the run that made it
  Index context = 0, batch = 0, steps = 0, eval_windows = 0;
  Budget budget;
  Words more;
};

class Lister {
 public:
  Lister(const Preset& preset, std::string text, std::string held_out)
      : preset_(preset), text_(std::move(text)), held_out_(std::move(held_out)) {}

  void table51();
  void scaling();
  void patterns();
  void levels();
  void pooling();
  void theory();
  void retrieval();
  void prepare_text();
  RunList take() { return std::move(list_); }

 private:
  bool known(const System& system);
  bool known(const Variant& variant);
  double attended(const std::string& system, Index context) const;
  Training text_training(const std::string& system) const;
  Words first_steps(Index copying, Index in_short) const;
  Words train_words(const std::string& name, const Training& t, Index seed, const std::string& rate) const;
  ExperimentRun train_run(const std::string& name, const Training& t, Index seed, const std::string& rate,
                          nlohmann::ordered_json labels) const;
  std::vector<std::string> grid(const std::string& experiment, const Training& t);
  void variants(const char* experiment, const std::vector<Variant>& rows);
  void train_variant(const std::string& row, const std::vector<std::string>& changes, Index seed,
                     nlohmann::ordered_json labels);
  void train_paper_form();
  void time_steps(const std::string& name, nlohmann::ordered_json labels, const std::string& attentions, Index length,
                  const Budget& budget);
  Index repeats_at(Index length) const;
  double timing_minutes(const std::string& attentions, Index length, Index repeats) const;
  void read_again(const std::string& name, nlohmann::ordered_json labels, const std::string& trained,
                  const std::string& attention, Index seed);
  void retrieve(const std::string& task, const RetrievalSize& size, const System& system);
  /// Unless it is listed already.
  void add(ExperimentRun run);
  void leave_out(const std::string& line);

  const Preset& preset_;
  std::string text_, held_out_;
  RunList list_;
};

}  // namespace hsattn::lm
