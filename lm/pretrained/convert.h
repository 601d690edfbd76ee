// Budgets for a pretrained model, head by head, without training: the smallest that hold a target. No torch here.
#pragma once

#include <atomic>
#include <optional>

#include "lm/eval/paired.h"
#include "lm/pretrained/allocation.h"
#include "lm/pretrained/runtime.h"
#include "lm/pretrained/steps.h"

namespace hsattn::lm {

struct ConvertOptions : PretrainedOptions {
  std::vector<std::string> text;
  std::string target = "0.5%";
  Index context = 4096;
  Index windows = 4;
  Index calibration = 2;
  Index least = 64;
  Index most = 0;
  Index average = 0;
  Index steps = 6;
  std::string out;
  bool json = false;

  void visit(OptionVisitor& option) override;
  /// "0.5%" or "0.005" as a share. Throws InvalidArgument unless it is above 0 and at most 1.
  double target_share() const;
  std::string out_file() const;
  BudgetRange range() const;
};

/// One allocation of budgets and what it costs on the calibration windows.
struct BudgetPoint {
  bool uniform = false;                   ///< the same for every head
  std::vector<std::vector<Index>> top_k;  ///< [layers in ConvertReport::layers][kv_heads]
  double average = 0;                     ///< of top_k
  AttendedShare attended;                 ///< over all layers
  std::vector<double> change;             ///< [texts] of perplexity against full attention, as a share
  double worst = 0;                       ///< the largest of `change`
};

/// On the held-out windows of a text: perplexity, and by which share of it an allocation changes it.
struct HeldOutChange {
  double full = 0, full_last_half = 0;
  Interval all, last_half;  ///< paired over windows
};

struct ConvertReport {
  std::vector<std::string> texts;
  std::vector<Index> layers;                     ///< those without a sliding window
  std::vector<std::vector<BudgetCurve>> curves;  ///< [layers][kv_heads] Runtime::head_errors(), mean over the texts
  std::vector<BudgetPoint> points;  ///< all that was measured, ascending in average, by head before uniform
  BudgetPoint chosen;
  std::optional<BudgetPoint> uniform;  ///< as large as it must be, or of the same average if that is given; if no
                                       ///< uniform budget holds the target none
  std::vector<HeldOutChange> chosen_held_out, uniform_held_out;  ///< [texts]
  bool interrupted = false;  ///< then the other fields mean nothing; a later call with the same options goes on

  /// True if the target holds on the held-out windows of every text, too.
  bool held(double target) const;
};

/// Throws InvalidArgument, naming the option.
void check_convert_options(const ConvertOptions& options);

/// Measures and writes options.out_file(), see kBudgetsFile. Throws FileError: texts too short; Error: the target does
/// not hold with the largest budgets.
ConvertReport convert_model(Runtime& runtime, const ConvertOptions& options, const std::atomic<bool>& interrupted,
                            const ProgressFunction& progress);

/// Words of --text options, each of which may be a list with commas.
std::vector<std::string> texts_of(const std::vector<std::string>& words);

}  // namespace hsattn::lm
