#include "lm/eval/text_units.h"

#include <filesystem>

#include "lm/data/text_encoder.h"
#include "lm/options/json_options.h"

namespace hsattn::lm {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool is_wikitext(const TokenFile& file) {
  const std::string summary = (std::filesystem::path(file.path()).parent_path() / "data.json").string();
  if (!std::filesystem::exists(summary)) return false;
  const auto json = read_json(summary);
  return json.is_object() && json.value("corpus", "") == "wikitext103";
}

Token separator_of(const TokenFile& file, const Tokenizer* tokenizer) {
  if (!file.separated()) return kNoToken;
  return tokenizer == nullptr ? 0 : tokenizer->end_of_text();
}

}  // namespace

TextUnits::TextUnits(const TokenFile& file)
    : tokenizer_(tokenizer_beside(file.path(), tokenizer_name(file.tokenizer()))),
      separator_(separator_of(file, tokenizer_.get())),
      lines_are_words_(is_wikitext(file)) {}

TextUnits::TextUnits(std::unique_ptr<const Tokenizer> tokenizer, Token separator, bool lines_are_words)
    : tokenizer_(std::move(tokenizer)), separator_(separator), lines_are_words_(lines_are_words) {}

std::string_view TextUnits::bytes_of(std::int64_t token, char& storage) const {
  if (separator_ != kNoToken && token == static_cast<std::int64_t>(separator_)) return {};
  if (tokenizer_) return tokenizer_->bytes_of(static_cast<Token>(token));
  storage = static_cast<char>(token);
  return {&storage, 1};
}

TextCount TextUnits::count(std::span<const std::int64_t> tokens) const {
  TextCount sum;
  bool in_word = false;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    char storage = 0;
    const std::string_view bytes = bytes_of(tokens[i], storage);
    if (bytes.empty()) in_word = false;  // a document ends
    for (const char c : bytes) {
      const bool space = is_space(c);
      if (i > 0 && !space && !in_word) ++sum.words;
      if (i > 0 && c == '\n' && lines_are_words_) ++sum.words;
      in_word = !space;
    }
    if (i > 0) sum.bytes += static_cast<Index>(bytes.size());
  }
  return sum;
}

}  // namespace hsattn::lm
