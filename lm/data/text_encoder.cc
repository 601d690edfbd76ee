#include "lm/data/text_encoder.h"

#include <filesystem>

#include "hsattn/base/error.h"

namespace hsattn::lm {

TextEncoder::TextEncoder(const std::string& tokenizer_path) {
  if (tokenizer_path.empty()) return;
  tokenizer_ = std::make_unique<const Tokenizer>(Tokenizer::read(tokenizer_path));
  encoder_.emplace(*tokenizer_);
  format_ = {tokenizer_->vocabulary(), tokenizer_->fingerprint(), tokenizer_->end_of_text()};
}

void TextEncoder::encode(std::string_view text, std::vector<Token>& out) {
  if (encoder_) {
    out.clear();
    encoder_->append(text, out);
  } else {
    const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
    out.assign(bytes, bytes + text.size());
  }
}

std::string tokenizer_name(std::uint64_t fingerprint) { return fingerprint == 0 ? "" : hex64(fingerprint); }

std::unique_ptr<const Tokenizer> tokenizer_beside(const std::string& file, const std::string& name) {
  if (name.empty()) return nullptr;
  const std::string path = (std::filesystem::path(file).parent_path() / kTokenizerFile).string();
  auto tokenizer = std::make_unique<const Tokenizer>(Tokenizer::read(path));
  if (tokenizer_name(tokenizer->fingerprint()) != name) {
    throw FileError(
        concat(path, " has the fingerprint ", hex64(tokenizer->fingerprint()), ", ", file, " was made with ", name));
  }
  return tokenizer;
}

}  // namespace hsattn::lm
