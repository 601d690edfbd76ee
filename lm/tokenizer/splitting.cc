#include "lm/tokenizer/splitting.h"

#include "lm/tokenizer/unicode.h"

namespace hsattn::lm {
namespace {

// Walks over the text by code points. `flags` is one bit, kOther, for what is no letter, number or white space.
constexpr std::uint8_t kOther = 128;
constexpr std::uint8_t kEnd = 0;

class Scanner {
 public:
  Scanner(std::string_view text, std::size_t begin) : text_(text), table_(code_flags()), at(begin) {}

  /// Code point here and its class; class kEnd at the end.
  struct Here {
    char32_t code = 0;
    std::size_t bytes = 0;
    std::uint8_t flags = kEnd;
    bool is(std::uint8_t any) const { return (flags & any) != 0; }
    bool line_end() const { return code == '\r' || code == '\n'; }
  };
  Here here(std::size_t position) const {
    if (position >= text_.size()) return {};
    const Code code = decode_code(text_.data() + position);
    const std::uint8_t flags = table_[code.value];
    return {code.value, code.bytes, (flags & (kLetter | kNumber | kSpace)) != 0 ? flags : kOther};
  }
  Here here() const { return here(at); }

  void skip(std::uint8_t any) {
    for (Here h = here(); h.is(any); h = here()) at += h.bytes;
  }
  void skip_line_ends() {
    while (at < text_.size() && (text_[at] == '\r' || text_[at] == '\n')) ++at;
  }
  char byte(std::size_t ahead) const { return at + ahead < text_.size() ? text_[at + ahead] : '\0'; }

  // White space of any length before something else leaves its last character to that.
  void skip_spaces() {
    std::size_t last = at;
    const std::size_t begin = at;
    for (Here h = here(); h.is(kSpace); h = here()) {
      last = at;
      at += h.bytes;
    }
    if (at < text_.size() && last > begin) at = last;
  }

 private:
  std::string_view text_;
  const std::uint8_t* table_;

 public:
  std::size_t at;
};

// Bytes of 's 't 'm 'd 're 've 'll here; 0 if none. The folded form takes capitals and the long s.
std::size_t contraction(const Scanner& s, bool fold) {
  if (s.byte(0) != '\'') return 0;
  const auto lower = [fold](char c) { return fold && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  const char a = lower(s.byte(1)), b = lower(s.byte(2));
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (fold && s.byte(1) == '\xc5' && s.byte(2) == '\xbf') return 3;  // U+017F
  return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

std::size_t gpt2(Scanner s) {
  if (const std::size_t bytes = contraction(s, false)) return s.at + bytes;
  const Scanner::Here first = s.here();
  const Scanner::Here word = first.code == ' ' ? s.here(s.at + 1) : first;
  if (!word.is(kLetter | kNumber | kOther)) {
    s.skip_spaces();
    return s.at;
  }
  if (first.code == ' ') ++s.at;
  s.skip(word.flags & (kLetter | kNumber | kOther));
  return s.at;
}

std::size_t llama3(Scanner s, int most_numbers) {
  if (const std::size_t bytes = contraction(s, true)) return s.at + bytes;
  const Scanner::Here first = s.here(), second = s.here(s.at + first.bytes);
  if (first.is(kLetter) || (!first.line_end() && !first.is(kNumber) && second.is(kLetter))) {
    s.at += first.bytes;
    s.skip(kLetter);
    return s.at;
  }
  if (first.is(kNumber)) {
    for (int i = 0; i < most_numbers && s.here().is(kNumber); ++i) s.at += s.here().bytes;
    return s.at;
  }
  if (first.is(kOther) || (first.code == ' ' && second.is(kOther))) {
    s.at += first.bytes;
    s.skip(kOther);
    s.skip_line_ends();
    return s.at;
  }
  // White space: up to the last end of line in it, if there is one.
  std::size_t after_line_end = 0;
  for (std::size_t at = s.at; s.here(at).is(kSpace);) {
    const Scanner::Here h = s.here(at);
    at += h.bytes;
    if (h.line_end()) after_line_end = at;
  }
  if (after_line_end != 0) return after_line_end;
  s.skip_spaces();
  return s.at;
}

std::size_t digits(Scanner s, std::string_view text) {
  const std::uint8_t* table = code_flags();
  const Code first = decode_code(text.data() + s.at);
  std::size_t at = s.at + first.bytes;
  if ((table[first.value] & kDigit) != 0) return at;
  while (at < text.size()) {
    const Code code = decode_code(text.data() + at);
    if ((table[code.value] & kDigit) != 0) break;
    at += code.bytes;
  }
  return at;
}

}  // namespace

std::string_view expression_of(SplitRule rule) {
  switch (rule) {
    case SplitRule::kGpt2:
      return R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
    case SplitRule::kLlama3:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case SplitRule::kQwen2:
      return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
    case SplitRule::kDigits:
      return "";
  }
  return "";
}

std::size_t piece_end(SplitRule rule, std::string_view text, std::size_t begin) {
  const Scanner scanner(text, begin);
  switch (rule) {
    case SplitRule::kGpt2:
      return gpt2(scanner);
    case SplitRule::kLlama3:
      return llama3(scanner, 3);
    case SplitRule::kQwen2:
      return llama3(scanner, 1);
    case SplitRule::kDigits:
      return digits(scanner, text);
  }
  return text.size();
}

}  // namespace hsattn::lm
