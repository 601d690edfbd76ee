// What tokens stand for, counted: the bytes and words by which perplexities of different tokenizers compare.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "hsattn/base/types.h"
#include "lm/data/token_file.h"
#include "lm/tokenizer/tokenizer.h"

namespace hsattn::lm {

struct TextCount {
  Index bytes = 0;
  Index words = 0;
};

/// Bytes are those of the text: what ends a document has none. A word is a run of bytes that are no ASCII white space,
/// counted where it begins. Of WikiText each end of a line is one more, as the literature counts its <eos>.
class TextUnits {
 public:
  /// For a token file; its tokenizer, and data.json which names the corpus, lie beside it. Throws FileError.
  explicit TextUnits(const TokenFile& file);
  /// `tokenizer` nullptr: bytes. `separator` ends documents; kNoToken: nothing does.
  TextUnits(std::unique_ptr<const Tokenizer> tokenizer, Token separator, bool lines_are_words);

  /// Of tokens[1..]; the first one only tells whether a word goes on.
  TextCount count(std::span<const std::int64_t> tokens) const;

 private:
  std::string_view bytes_of(std::int64_t token, char& storage) const;

  std::unique_ptr<const Tokenizer> tokenizer_;
  Token separator_;
  bool lines_are_words_;
};

}  // namespace hsattn::lm
