#include "lm/data/first_tokens.h"

#include <algorithm>

#include "lm/data/documents.h"
#include "lm/data/token_file.h"

namespace hsattn::lm {

std::vector<std::int64_t> first_tokens(const std::string& path, Index limit) {
  std::vector<std::int64_t> tokens;
  if (path.ends_with(".tokens")) {
    const TokenFile file(path);
    tokens.resize(static_cast<std::size_t>(std::min(file.tokens(), limit)));
    file.copy(0, tokens);
    return tokens;
  }
  const std::string text = read_documents({path}, "text").items.front().text;
  for (const char c : text.substr(0, static_cast<std::size_t>(limit))) {
    tokens.push_back(static_cast<unsigned char>(c));
  }
  return tokens;
}

}  // namespace hsattn::lm
