// Options of what runs a pretrained model.
#pragma once

#include <string>

#include "lm/pretrained/config.h"
#include "lm/pretrained/sampling.h"

namespace hsattn::lm {

struct PretrainedOptions : Options {
  std::string model;
  std::string precision = "auto";
  Index threads = 0;
  Index chunk = 0;
  bool model_budgets = true;
  AttentionOptions attention;

  PretrainedOptions();
  void visit(OptionVisitor& option) override;
  /// Without --attention, for commands that decide it themselves.
  void visit_all_but_attention(OptionVisitor& option);
  /// The preset, then what the model's own budgets say.
  void apply_preset() override;
};

/// Throws InvalidArgument, naming the option.
void check_pretrained_options(const PretrainedOptions& options);
/// Of commands that take budgets of hsa alone. Throws InvalidArgument if the model's budgets name another pattern.
void check_budgets_of_hsa(const PretrainedOptions& options);

}  // namespace hsattn::lm
