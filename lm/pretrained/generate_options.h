// Options of `hsattn generate` and `hsattn chat`: a model, a prompt, how tokens are chosen.
#pragma once

#include "lm/pretrained/generation_config.h"
#include "lm/pretrained/options.h"

namespace hsattn::lm {

struct SamplingChoice {
  static constexpr double kAsModel = -1;  ///< what generation_config.json says
  double temperature = kAsModel, top_p = kAsModel, repetition_penalty = kAsModel;
  Index sample_top_k = -1, seed = 0;

  void visit(OptionVisitor& option);
  /// With the model's own where nothing is chosen. A temperature above 0 alone switches sampling on.
  SamplingOptions over(const SamplingOptions& of_model) const;
};

struct GenerateOptions : PretrainedOptions {
  std::string prompt, text;
  Index context = 0;
  Index max_tokens = 256;
  SamplingChoice sampling;
  std::vector<std::string> stop;
  bool ignore_end = false;
  bool json = false;

  void visit(OptionVisitor& option) override;
};

struct ChatOptions : PretrainedOptions {
  std::string system, message, messages;
  Index max_tokens = 1024;
  SamplingChoice sampling;
  std::vector<std::string> stop;
  bool show_prompt = false;
  bool json = false;

  void visit(OptionVisitor& option) override;
};

struct PretrainedEvalOptions : PretrainedOptions {
  std::string text, logits;
  Index context = 1024;
  Index windows = 0;
  bool json = false;

  void visit(OptionVisitor& option) override;
};

}  // namespace hsattn::lm
