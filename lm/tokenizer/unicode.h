// Code points: UTF-8, classes for cutting texts, normal form C. The tables are those of the `tokenizers` package.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "hsattn/base/types.h"

namespace hsattn::lm {

enum CodeFlag : std::uint8_t {
  kLetter = 1,      ///< \p{L}
  kNumber = 2,      ///< \p{N}
  kSpace = 4,       ///< \s
  kDigit = 8,       ///< what the pre-tokenizer Digits cuts off
  kNormalized = 16  ///< may change, or change what stands before it, in normal form C
};

/// Flags of every code point; [0x110000], made on the first call.
const std::uint8_t* code_flags();

struct Code {
  char32_t value;
  std::size_t bytes;
};

/// The code point that starts at `at`. The text there must be valid UTF-8.
inline Code decode_code(const char* at) {
  const auto byte = [at](int i) { return static_cast<char32_t>(static_cast<unsigned char>(at[i])); };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xe0) return {(first & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  if (first < 0xf0) return {(first & 0xf) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f), 3};
  return {(first & 7) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f), 4};
}

void append_utf8(char32_t code, std::string& out);

/// Offset of the first byte that is not part of valid UTF-8 (overlong forms and surrogates are none); npos if all is.
std::size_t invalid_utf8(std::string_view text);

/// Normal form C of valid UTF-8.
std::string normal_form_c(std::string_view text);

}  // namespace hsattn::lm
