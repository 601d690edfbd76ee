// The start of a text as tokens.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hsattn/base/types.h"
#include "lm/tokenizer/tokenizer.h"

namespace hsattn::lm {

/// At most `limit` tokens from the start of a token file (.tokens), or of the first document of a text, .gz or .jsonl
/// file, which `tokenizer` cuts (nullptr: bytes). Throws FileError, also for tokens of another tokenizer and if there
/// are none.
std::vector<std::int64_t> first_tokens(const std::string& path, Index limit, const Tokenizer* tokenizer);

}  // namespace hsattn::lm
