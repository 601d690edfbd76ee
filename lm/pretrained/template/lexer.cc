#include "lm/pretrained/template/lexer.h"

#include <algorithm>
#include <array>

#include "lm/data/files.h"
#include "lm/tokenizer/unicode.h"

namespace hsattn::lm::jinja {
namespace {

constexpr std::string_view kSpaces = " \t\n\r\v\f";

bool is_one_of(std::string_view all, char c) { return all.find(c) != std::string_view::npos; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

class Lexer {
 public:
  explicit Lexer(std::string_view text) {
    for (std::size_t i = 0; i < text.size(); ++i) {  // line breaks are \n
      const bool pair = text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n';
      if (!pair) text_ += text[i] == '\r' ? '\n' : text[i];
    }
    if (text_.ends_with('\n')) text_.pop_back();  // as Jinja does
  }

  std::vector<Word> read() {
    while (at_ < text_.size()) {
      read_text();
      if (at_ < text_.size()) read_tag();
    }
    add(Word::Kind::kEnd, "");
    return std::move(words_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw FileError(concat("line ", line_, ": ", parts...));
  }
  void add(Word::Kind kind, std::string text) { words_.push_back({kind, std::move(text), line_}); }
  std::string_view rest() const { return std::string_view(text_).substr(at_); }
  void skip(std::size_t bytes) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(at_ + bytes), '\n'));
    at_ += bytes;
  }

  // Up to the next tag, without the white space that the tags on both sides take.
  void read_text() {
    if (strip_next_) skip(std::min(rest().find_first_not_of(kSpaces), rest().size()));
    strip_next_ = false;
    const bool starts_line = at_ == 0 || text_[at_ - 1] == '\n';
    std::size_t end = text_.find('{', at_);
    while (end != std::string::npos && (end + 1 == text_.size() || !is_one_of("{%#", text_[end + 1]))) {
      end = text_.find('{', end + 1);
    }
    if (end == std::string::npos) end = text_.size();
    std::string text = text_.substr(at_, end - at_);
    if (end < text_.size()) {
      strip_before_tag(text, starts_line, text_[end + 1], end + 2 < text_.size() ? text_[end + 2] : ' ');
    }
    if (!text.empty()) add(Word::Kind::kText, text);
    skip(end - at_);
  }

  // `starts_line`: the text does.
  static void strip_before_tag(std::string& text, bool starts_line, char tag, char mark) {
    if (mark == '-') {
      text.erase(text.find_last_not_of(kSpaces) + 1);
    } else if (tag != '{' && mark != '+') {
      const std::size_t kept = text.find_last_not_of(" \t\v\f") + 1;
      const bool begins_line = kept > 0 ? text[kept - 1] == '\n' : starts_line;
      if (begins_line) text.erase(kept);
    }
  }

  void read_tag() {
    const char tag = text_[at_ + 1];
    skip(2);
    if (!rest().empty() && (rest()[0] == '-' || (rest()[0] == '+' && tag != '{'))) skip(1);
    if (tag == '#') {
      const std::size_t end = rest().find("#}");
      if (end == std::string_view::npos) fail("a comment without end");
      const char mark = end > 0 ? rest()[end - 1] : ' ';
      skip(end + 2);
      end_tag(mark, /*trims=*/true);
      return;
    }
    const bool prints = tag == '{';
    add(prints ? Word::Kind::kPrintBegin : Word::Kind::kBlockBegin, "");
    while (!read_end(prints)) read_word();
    add(prints ? Word::Kind::kPrintEnd : Word::Kind::kBlockEnd, "");
  }

  bool read_end(bool prints) {
    skip(std::min(rest().find_first_not_of(kSpaces), rest().size()));
    if (rest().empty()) fail("a tag without end");
    const std::string_view end = prints ? "}}" : "%}";
    const char mark = rest()[0] == '-' || (rest()[0] == '+' && !prints) ? rest()[0] : ' ';
    const std::size_t width = mark == ' ' ? 0 : 1;
    if (open_ != 0 || rest().substr(width, 2) != end) return false;
    skip(width + 2);
    end_tag(mark, !prints);
    return true;
  }

  void end_tag(char mark, bool trims) {
    strip_next_ = mark == '-';
    if (trims && mark != '-' && mark != '+' && rest().starts_with('\n')) skip(1);
  }

  void read_word() {
    const char c = rest()[0];
    if (is_name_start(c)) {
      take(Word::Kind::kName, [](char d) { return is_name_start(d) || is_digit(d); });
    } else if (is_digit(c)) {
      read_number();
    } else if (c == '\'' || c == '"') {
      read_string(c);
    } else {
      read_sign();
    }
  }

  template <class Belongs>
  void take(Word::Kind kind, Belongs belongs) {
    std::size_t end = 0;
    while (end < rest().size() && belongs(rest()[end])) ++end;
    add(kind, std::string(rest().substr(0, end)));
    skip(end);
  }

  void read_number() {
    std::size_t end = 0;
    bool whole = true;
    while (end < rest().size() && is_digit(rest()[end])) ++end;
    if (end + 1 < rest().size() && rest()[end] == '.' && is_digit(rest()[end + 1])) {
      whole = false;
      for (++end; end < rest().size() && is_digit(rest()[end]);) ++end;
    }
    add(whole ? Word::Kind::kInteger : Word::Kind::kFloat, std::string(rest().substr(0, end)));
    skip(end);
  }

  void read_sign() {
    static constexpr std::array<std::string_view, 8> kPairs = {"==", "!=", "<=", ">=", "//", "**", "&&", "||"};
    const bool pair = std::find(kPairs.begin(), kPairs.end(), rest().substr(0, 2)) != kPairs.end();
    const std::string sign(rest().substr(0, pair ? 2 : 1));
    if (!pair && !is_one_of("+-*/%~<>=()[]{},.:|", sign[0])) fail("a character that stands for nothing");
    if (is_one_of("([{", sign[0])) ++open_;
    if (is_one_of(")]}", sign[0]) && --open_ < 0) fail("a bracket that nothing opened");
    add(Word::Kind::kSign, sign);
    skip(sign.size());
  }

  void read_string(char quote) {
    std::string value;
    std::size_t at = 1;
    while (at < rest().size() && rest()[at] != quote) {
      if (rest()[at] == '\\' && at + 1 < rest().size()) {
        at += append_escaped(rest().substr(at + 1), value) + 1;
      } else {
        value += rest()[at++];
      }
    }
    if (at == rest().size()) fail("a text without end");
    add(Word::Kind::kString, value);
    skip(at + 1);
  }

  // Appends what a backslash before `text` makes of its start; returns how many bytes it took.
  std::size_t append_escaped(std::string_view text, std::string& value) const {
    static constexpr std::string_view kNames = "ntrbfv0\\'\"", kValues("\n\t\r\b\f\v\0\\'\"", 10),
                                      kDigits = "0123456789abcdefABCDEF";
    const std::size_t simple = kNames.find(text[0]);
    if (simple != std::string_view::npos) {
      value += kValues[simple];
      return 1;
    }
    if (text[0] == '\n') return 1;
    const std::size_t digits = text[0] == 'x' ? 2 : text[0] == 'u' ? 4 : 0;
    if (digits == 0) {
      value.append(1, '\\').append(1, text[0]);
      return 1;
    }
    char32_t code = 0;
    for (std::size_t i = 1; i <= digits; ++i) {
      const std::size_t found = i < text.size() ? kDigits.find(text[i]) : std::string_view::npos;
      if (found == std::string_view::npos) fail("\\", text[0], " needs ", digits, " hexadecimal digits");
      code = code * 16 + static_cast<char32_t>(found < 16 ? found : found - 6);
    }
    if (code >= 0xd800 && code < 0xe000) fail("\\u of half a character");
    append_utf8(code, value);
    return digits + 1;
  }

  std::string text_;
  std::size_t at_ = 0;
  int line_ = 1;
  int open_ = 0;  // brackets inside a tag
  bool strip_next_ = false;
  std::vector<Word> words_;
};

}  // namespace

std::vector<Word> words_of_template(std::string_view text) { return Lexer(text).read(); }

}  // namespace hsattn::lm::jinja
