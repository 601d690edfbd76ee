// The start of a text as tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// At most `limit` tokens from the start of a token file (.tokens), or bytes of the first document of a text, .gz or
/// .jsonl file. Throws FileError.
std::vector<std::int64_t> first_tokens(const std::string& path, Index limit);

}  // namespace hsattn::lm
