// Bytes of tokens, one after another, into text that may be shown. No torch here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hsattn::lm {

/// Holds back characters that are not whole and what may become a stop word. Bytes that are no UTF-8 become U+FFFD, as
/// many as the `tokenizers` package makes of them.
class TextStream {
 public:
  /// Empty stop words are none.
  explicit TextStream(std::vector<std::string> stop_words);

  /// Takes the bytes of a token; returns what may be shown now.
  std::string push(std::string_view bytes);
  /// What was held back, at the end of the text.
  std::string finish();
  /// True once a stop word came. It and what follows are not shown.
  bool stopped() const { return stopped_; }

 private:
  std::string release(std::size_t bytes);

  std::vector<std::string> stop_words_;
  std::string bytes_;  // of a character that is not whole yet
  std::string text_;   // valid, not shown yet
  bool stopped_ = false;
};

/// Moves what is decided from the start of `bytes` to `text`: whole characters, and U+FFFD for each maximal part of one
/// that no byte can make whole. With `all` an unfinished character at the end becomes U+FFFD too.
void move_whole_characters(std::string& bytes, std::string& text, bool all);

}  // namespace hsattn::lm
