// Options that hold several values: words or lengths separated by commas.
#pragma once

#include <string>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// "a,b" -> a, b; empty words stay, and an empty text is one empty word.
std::vector<std::string> split_list(const std::string& text);

/// Whole numbers, "64,512,128"; none in an empty text. Throws InvalidArgument, naming `name`.
std::vector<Index> parse_numbers(const std::string& name, const std::string& text);

/// Sequence lengths, "4096,8192". Throws InvalidArgument, naming `lengths`.
std::vector<Index> parse_lengths(const std::string& text);

}  // namespace hsattn::lm
