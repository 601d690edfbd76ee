// What a search for budgets works on: windows of texts, and the options that it does not decide. No torch here.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lm/pretrained/convert.h"

namespace hsattn::lm {

struct ConversionText {
  std::vector<std::vector<Token>> calibration, held_out;  ///< windows
};

/// Throws FileError: a text is too short.
std::vector<ConversionText> read_conversion_texts(const Runtime& runtime, const ConvertOptions& options);

/// What `base` has other than the library's defaults, in the words of kBudgetsFile; top_k is each head's own.
nlohmann::ordered_json options_besides_top_k(const AttentionOptions& base);

/// Of all that decides what is measured.
std::string conversion_fingerprint(const ConvertOptions& options, const std::string& precision,
                                   const std::vector<ConversionText>& texts);

}  // namespace hsattn::lm
