// Texts as tokens: bytes, or those of a tokenizer.json.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lm/data/token_writer.h"
#include "lm/tokenizer/tokenizer.h"

namespace hsattn::lm {

class TextEncoder {
 public:
  /// An empty path: bytes. Throws FileError, Unsupported.
  explicit TextEncoder(const std::string& tokenizer_path);

  const TokenFormat& format() const { return format_; }
  /// nullptr: bytes.
  const Tokenizer* tokenizer() const { return tokenizer_ ? &*tokenizer_ : nullptr; }
  /// Replaces `out`. Throws InvalidArgument if there is a tokenizer and the text is not valid UTF-8.
  void encode(std::string_view text, std::vector<Token>& out);

 private:
  std::unique_ptr<const Tokenizer> tokenizer_;
  std::optional<Encoder> encoder_;
  TokenFormat format_;
};

/// Name of the tokenizer's file in a data folder, in a run and in a checkpoint.
constexpr const char* kTokenizerFile = "tokenizer.json";

/// What a fingerprint is called in options and files: 16 hexadecimal digits; "" for bytes, whose fingerprint is 0.
std::string tokenizer_name(std::uint64_t fingerprint);

/// The tokenizer of a token file or a model, which lies beside it; nullptr for the name of bytes.
/// Throws FileError if it is missing or another one.
std::unique_ptr<const Tokenizer> tokenizer_beside(const std::string& file, const std::string& name);

}  // namespace hsattn::lm
