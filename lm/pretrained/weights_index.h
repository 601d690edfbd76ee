// Which files hold a model's weights: model.safetensors, or the files that its index names. No torch here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hsattn::lm {

/// The names of the files of a model.safetensors.index.json, each once, an untrusted text. Throws FileError; names that
/// lead out of the folder are refused.
std::vector<std::string> parse_weights_index(std::string_view text, const std::string& what);

/// Paths of the weights of a folder. Throws FileError.
std::vector<std::string> weight_files(const std::string& folder);

}  // namespace hsattn::lm
