#include "lm/tokenizer/tokenizer.h"

#include <algorithm>
#include <cstring>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/tokenizer/unicode.h"

namespace hsattn::lm {
namespace {

constexpr std::size_t kRemembered = 1 << 15;

std::uint64_t hash_of(const TokenizerContent& c) {
  Fnv64 hash;
  const auto number = [&](std::uint64_t value) { hash.add(&value, sizeof value); };
  const auto text = [&](const std::string& value) {
    number(value.size());
    hash.add(value.data(), value.size());
  };
  number(c.vocabulary.size());
  for (const std::string& token : c.vocabulary) text(token);
  for (const Token token : c.bytes) number(token);
  for (const bool known : c.of_bytes) number(known);
  number(c.unknown);
  number(c.merges.size());
  for (const Merge& m : c.merges) number(m.left), number(m.right), number(m.into);
  number(c.ignore_merges), number(c.normal_form_c), number(c.steps.size());
  for (const SplitStep& s : c.steps) {
    number(s.prefix_space);
    text(s.cuts ? concat(static_cast<int>(s.rule), " ", expression_of(s.rule)) : std::string());
  }
  for (const AddedToken& t : c.added) {
    number(t.id), text(t.name);
    number(t.special), number(t.normalized), number(t.strip_left), number(t.strip_right);
  }
  return hash.value();
}

std::size_t hash_of(std::string_view piece) {
  std::uint64_t hash = piece.size();
  for (std::size_t i = 0; i < piece.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, piece.data() + i, std::min<std::size_t>(8, piece.size() - i));
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 29;
  }
  return hash;
}

}  // namespace

Tokenizer::Tokenizer(TokenizerContent content)
    : content_(std::move(content)),
      pairs_(content_.bytes, content_.unknown, content_.merges),
      special_(content_.vocabulary.size(), false),
      fingerprint_(hash_of(content_)) {
  for (std::size_t id = 0; id < content_.vocabulary.size(); ++id) {
    if (content_.of_bytes[id]) ids_.emplace(content_.vocabulary[id], static_cast<Token>(id));
  }
  for (const AddedToken& token : content_.added) {
    special_[token.id] = token.special;
    if (token.normalized) {
      normalized_.add(content_.normal_form_c ? normal_form_c(token.name) : token.name, token);
    } else {
      as_written_.add(token.name, token);
    }
  }
}

Token Tokenizer::added_token(std::string_view name) const {
  for (const AddedToken& token : content_.added) {
    if (token.name == name) return token.id;
  }
  return kNoToken;
}

Token Tokenizer::end_of_text() const {
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"}) {
    if (const Token token = added_token(name); token != kNoToken) return token;
  }
  return kNoToken;
}

bool Tokenizer::is_special(Token token) const { return token < special_.size() && special_[token]; }

std::vector<Token> Tokenizer::with_template(std::vector<Token> text) const {
  if (!content_.unknown_template.empty()) {
    throw Unsupported(concat("the tokenizer's post_processor ", content_.unknown_template,
                             " is not supported; ByteLevel and TemplateProcessing are"));
  }
  text.insert(text.begin(), content_.before.begin(), content_.before.end());
  text.insert(text.end(), content_.after.begin(), content_.after.end());
  return text;
}

std::string_view Tokenizer::bytes_of(Token token) const {
  check(has(token), "token ", token, " is not one of the ", content_.exists.size(), " of the tokenizer");
  return content_.vocabulary[token];
}

std::string Tokenizer::decode(std::span<const Token> tokens, bool skip_special) const {
  std::string text;
  for (const Token token : tokens) {
    const std::string_view bytes = bytes_of(token);
    if (!skip_special || !special_[token]) text.append(bytes);
  }
  return text;
}

Encoder::Encoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer), memory_(kRemembered) {}

void Encoder::append(std::string_view text, std::vector<Token>& out) {
  const std::size_t bad = invalid_utf8(text);
  check(bad == std::string_view::npos, "byte ", bad, " is not UTF-8");
  for (const Segment& segment : tokenizer_.as_written_.cut(text)) {
    if (segment.token != kNoToken) {
      out.push_back(segment.token);
    } else if (tokenizer_.content_.normal_form_c) {
      append_segment(normal_form_c(segment.text), out);
    } else {
      append_segment(segment.text, out);
    }
  }
}

void Encoder::append_segment(std::string_view text, std::vector<Token>& out) {
  for (const Segment& segment : tokenizer_.normalized_.cut(text)) {
    if (segment.token != kNoToken) {
      out.push_back(segment.token);
    } else {
      cut(segment.text, 0, out);
    }
  }
}

void Encoder::cut(std::string_view text, std::size_t step, std::vector<Token>& out) {
  if (step == tokenizer_.content_.steps.size()) {
    append_piece(text, out);
    return;
  }
  const SplitStep& s = tokenizer_.content_.steps[step];
  std::string with_space;
  if (s.prefix_space && !text.starts_with(' ')) {
    with_space.reserve(text.size() + 1);
    text = with_space.append(1, ' ').append(text);
  }
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = s.cuts ? piece_end(s.rule, text, begin) : text.size();
    cut(text.substr(begin, end - begin), step + 1, out);
    begin = end;
  }
}

void Encoder::append_piece(std::string_view piece, std::vector<Token>& out) {
  if (piece.size() > Remembered::kBytes) {
    compute_piece(piece, out);
    return;
  }
  Remembered& slot = memory_[hash_of(piece) >> 49];
  if (slot.bytes == piece.size() && std::memcmp(slot.text, piece.data(), piece.size()) == 0) {
    out.insert(out.end(), slot.ids, slot.ids + slot.tokens);
    return;
  }
  const std::size_t before = out.size();
  compute_piece(piece, out);
  const std::size_t count = out.size() - before;
  if (count > Remembered::kTokens) return;
  slot.bytes = static_cast<std::uint8_t>(piece.size());
  slot.tokens = static_cast<std::uint8_t>(count);
  std::memcpy(slot.text, piece.data(), piece.size());
  std::copy(out.begin() + static_cast<std::ptrdiff_t>(before), out.end(), slot.ids);
}

void Encoder::compute_piece(std::string_view piece, std::vector<Token>& out) const {
  if (tokenizer_.content_.ignore_merges) {
    const auto found = tokenizer_.ids_.find(piece);
    if (found != tokenizer_.ids_.end()) {
      out.push_back(found->second);
      return;
    }
  }
  tokenizer_.pairs_.append(piece, out);
}

}  // namespace hsattn::lm
