#include "lm/data/first_tokens.h"

#include <algorithm>

#include "lm/data/documents.h"
#include "lm/data/files.h"
#include "lm/data/token_file.h"

namespace hsattn::lm {

namespace {

std::vector<std::int64_t> read_first(const std::string& path, Index limit, const Tokenizer* tokenizer) {
  const auto most = static_cast<std::size_t>(limit);
  std::vector<std::int64_t> tokens;
  if (path.ends_with(".tokens")) {
    const TokenFile file(path);
    if (file.tokenizer() != (tokenizer != nullptr ? tokenizer->fingerprint() : 0)) {
      throw FileError(path + ": made with another tokenizer than the model");
    }
    tokens.resize(static_cast<std::size_t>(std::min(file.tokens(), limit)));
    file.copy(0, tokens);
    return tokens;
  }
  const Document document = read_documents({path}, "text").items.front();
  if (tokenizer == nullptr) {
    for (const char c : document.text.substr(0, most)) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }
  std::vector<Token> all;
  try {
    Encoder(*tokenizer).append(document.text, all);
  } catch (const InvalidArgument& error) {
    throw FileError(document.name + ": " + error.what());
  }
  tokens.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), most)));
  return tokens;
}

}  // namespace

std::vector<std::int64_t> first_tokens(const std::string& path, Index limit, const Tokenizer* tokenizer) {
  std::vector<std::int64_t> tokens = read_first(path, limit, tokenizer);
  if (tokens.empty()) throw FileError(path + ": no tokens");
  return tokens;
}

}  // namespace hsattn::lm
