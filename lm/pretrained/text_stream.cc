#include "lm/pretrained/text_stream.h"

#include <algorithm>

namespace hsattn::lm {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// What the bytes at the start of a text are: `bytes` of a character that is whole, of a part of one that cannot become
// whole, or of one that more bytes may finish.
struct Character {
  enum class Kind { kWhole, kBroken, kOpen } kind;
  std::size_t bytes;
};

Character first_character(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return {Character::Kind::kWhole, 1};
  const std::size_t length = first >= 0xc2 && first < 0xe0   ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
  if (length == 0) return {Character::Kind::kBroken, 1};
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Character::Kind::kOpen, i};
    // The second byte excludes overlong forms, surrogates and what is above U+10FFFF.
    const unsigned char least = i == 1 && first == 0xe0 ? 0xa0 : i == 1 && first == 0xf0 ? 0x90 : 0x80;
    const unsigned char most = i == 1 && first == 0xed ? 0x9f : i == 1 && first == 0xf4 ? 0x8f : 0xbf;
    if (at(i) < least || at(i) > most) return {Character::Kind::kBroken, i};
  }
  return {Character::Kind::kWhole, length};
}

}  // namespace

void move_whole_characters(std::string& bytes, std::string& text, bool all) {
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const Character next = first_character(rest);
    if (next.kind == Character::Kind::kOpen && !all) break;
    text += next.kind == Character::Kind::kWhole ? rest.substr(0, next.bytes) : kReplacement;
    rest.remove_prefix(next.bytes);
  }
  bytes.erase(0, bytes.size() - rest.size());
}

TextStream::TextStream(std::vector<std::string> stop_words) : stop_words_(std::move(stop_words)) {
  std::erase(stop_words_, "");
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return {};
  bytes_ += bytes;
  move_whole_characters(bytes_, text_, /*all=*/false);
  std::size_t stop = std::string::npos, held = 0;
  for (const std::string& word : stop_words_) {
    stop = std::min(stop, text_.find(word));
    for (std::size_t n = std::min(word.size() - 1, text_.size()); n > held; --n) {
      if (text_.ends_with(std::string_view(word).substr(0, n))) held = n;
    }
  }
  stopped_ = stop != std::string::npos;
  return release(stopped_ ? stop : text_.size() - held);
}

std::string TextStream::finish() {
  if (stopped_) return {};
  move_whole_characters(bytes_, text_, /*all=*/true);
  return release(text_.size());
}

std::string TextStream::release(std::size_t bytes) {
  std::string shown = text_.substr(0, bytes);
  text_.erase(0, bytes);
  return shown;
}

}  // namespace hsattn::lm
