// generation_config.json: how a model's makers mean it to be sampled, and which tokens end a text. No torch here.
#pragma once

#include <string>
#include <string_view>

#include "lm/pretrained/sampling.h"

namespace hsattn::lm {

struct GenerationDefaults {
  SamplingOptions sampling;
  std::vector<Token> end;  ///< tokens that end a text
};

/// Reads the text of a generation_config.json, an untrusted file. Throws FileError; Unsupported for ways of choosing
/// tokens that are not supported, by name.
GenerationDefaults parse_generation_config(std::string_view text, const std::string& what);

/// Of a folder: its generation_config.json; what that does not say of ends, its config.json.
GenerationDefaults read_generation_defaults(const std::string& folder);

}  // namespace hsattn::lm
