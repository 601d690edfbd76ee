// Byte-level BPE as the `tokenizers` package does it: text to tokens and back.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hsattn/base/types.h"
#include "lm/tokenizer/added_tokens.h"
#include "lm/tokenizer/byte_pairs.h"
#include "lm/tokenizer/splitting.h"

namespace hsattn::lm {

/// One step of cutting a text: a space before it if it has none, then a rule.
struct SplitStep {
  bool cuts = false;
  SplitRule rule = SplitRule::kGpt2;  ///< if cuts
  bool prefix_space = false;
};

/// What a tokenizer.json says.
struct TokenizerContent {
  std::vector<std::string> vocabulary;  ///< [ids] bytes of each token; of what stands in no text, its name
  std::vector<bool> exists;             ///< [ids] false: no token has this id
  std::vector<bool> of_bytes;           ///< [ids] true: bytes of a text may become it
  std::array<Token, 256> bytes{};       ///< token of each byte, or kNoToken
  Token unknown = kNoToken;
  std::vector<Merge> merges;
  bool ignore_merges = false;  ///< a piece that is a token is that token
  bool normal_form_c = false;
  std::vector<SplitStep> steps;
  std::vector<AddedToken> added;
  std::vector<Token> before, after;  ///< what the post_processor puts around a text
  std::string unknown_template;      ///< a post_processor that is not supported; empty: there is none
};

/// Immutable; may be shared by threads, each with an Encoder of its own.
class Tokenizer {
 public:
  explicit Tokenizer(TokenizerContent content);
  Tokenizer(Tokenizer&&) = default;  // strings stay where they are, so views of them stay right
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  /// Reads a tokenizer.json. Throws FileError: damaged or no tokenizer. Throws Unsupported: a part of it that is not
  /// implemented here, by name.
  static Tokenizer read(const std::string& path);
  static Tokenizer parse(std::string_view json, const std::string& name);

  /// Highest id + 1: the rows that an embedding needs.
  Index vocabulary() const { return static_cast<Index>(content_.vocabulary.size()); }
  /// Hash of all that decides which tokens a text becomes; not of the layout of the file.
  std::uint64_t fingerprint() const { return fingerprint_; }
  /// The added token of this name; kNoToken if there is none.
  Token added_token(std::string_view name) const;
  /// The added token that ends a document, by the usual names (<|endoftext|>, </s> ...); kNoToken if it has none.
  Token end_of_text() const;
  bool has(Token token) const { return token < content_.exists.size() && content_.exists[token]; }
  bool is_special(Token token) const;
  /// `text`'s tokens with those of the post_processor around them, such as the one that begins a text. Throws
  /// Unsupported if it is of a kind that is not supported.
  std::vector<Token> with_template(std::vector<Token> text) const;
  /// The bytes that a token stands for. Throws InvalidArgument if there is no such token.
  std::string_view bytes_of(Token token) const;
  /// Bytes of all tokens in order, which need not be valid UTF-8.
  std::string decode(std::span<const Token> tokens, bool skip_special) const;

 private:
  friend class Encoder;
  TokenizerContent content_;
  BytePairs pairs_;
  std::unordered_map<std::string_view, Token> ids_;  // of tokens of bytes
  AddedTokenFinder as_written_, normalized_;         // added tokens looked for before and after normalization
  std::vector<bool> special_;
  std::uint64_t fingerprint_ = 0;
};

/// Encodes texts one after another; remembers frequent pieces.
class Encoder {
 public:
  /// `tokenizer` must live longer.
  explicit Encoder(const Tokenizer& tokenizer);

  /// Appends the tokens of `text`, names of added tokens in it included; no template is put around it.
  /// Throws InvalidArgument if it is not valid UTF-8.
  void append(std::string_view text, std::vector<Token>& out);

 private:
  // A piece and its tokens, in one line of the processor's cache.
  struct Remembered {
    static constexpr std::size_t kBytes = 30, kTokens = 8;
    std::uint8_t bytes = 0, tokens = 0;
    char text[kBytes];
    Token ids[kTokens];
  };
  void append_segment(std::string_view text, std::vector<Token>& out);
  void cut(std::string_view text, std::size_t step, std::vector<Token>& out);
  void append_piece(std::string_view piece, std::vector<Token>& out);
  void compute_piece(std::string_view piece, std::vector<Token>& out) const;

  const Tokenizer& tokenizer_;
  std::vector<Remembered> memory_;
};

}  // namespace hsattn::lm
