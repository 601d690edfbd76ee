// Byte-level BPE trained on texts, through Python's `tokenizers` package.
#pragma once

#include <string>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

struct TokenizerTraining {
  Index vocabulary = 8192;
  std::string split = "gpt2";  ///< gpt2, llama3 or qwen2
  std::string out;             ///< the tokenizer.json to write
};

/// Reads files and folders in any form that open_source() knows and trains on their documents; `documents` and `bad`
/// say how many there were and how many were left out. Throws FileError, also if Python or the package is missing.
void train_tokenizer(const std::vector<std::string>& inputs, const std::string& field,
                     const TokenizerTraining& training, Index& documents, Index& bad);

}  // namespace hsattn::lm
