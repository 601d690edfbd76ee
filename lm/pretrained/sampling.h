// The next token from logits. No torch here.
#pragma once

#include <random>
#include <span>
#include <vector>

#include "lm/tokenizer/tokenizer.h"

namespace hsattn::lm {

struct SamplingOptions {
  double temperature = 0;         ///< 0: the most likely token; else logits are divided by it
  double top_p = 1;               ///< the fewest likely tokens that hold this share; 1: all
  Index top_k = 0;                ///< so many of the likely tokens; 0: all
  double repetition_penalty = 1;  ///< for tokens that are there already
  Index seed = 0;
};

/// Throws InvalidArgument, naming the option.
void check_sampling_options(const SamplingOptions& options);

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);

  /// `logits` [vocabulary], changed by the call; `context`: the tokens so far. First the penalty, then the temperature,
  /// top_k and top_p, as transformers has it. Of equal logits the lowest token comes first.
  /// Throws Error if a logit is NaN.
  Token next(std::span<float> logits, std::span<const Token> context);

 private:
  Token draw(std::span<const float> logits);

  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<Token> order_;
  std::vector<double> weights_;
};

}  // namespace hsattn::lm
