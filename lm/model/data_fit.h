// Whether a model and a token file belong together.
#pragma once

#include "lm/data/token_file.h"
#include "lm/model/config.h"

namespace hsattn::lm {

/// Takes from the data what the configuration leaves open: a vocabulary of 0, an empty tokenizer. Then checks both.
/// Throws FileError.
void fit_to_data(ModelConfig& config, const TokenFile& data);

/// Throws FileError if the tokens are not those of the model's tokenizer, or more than its embedding knows.
void check_fits(const ModelConfig& config, const TokenFile& data);

}  // namespace hsattn::lm
