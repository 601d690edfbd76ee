// Added tokens: names that are found in a text before it is cut, such as <|endoftext|>.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lm/tokenizer/byte_pairs.h"

namespace hsattn::lm {

struct AddedToken {
  Token id = 0;
  std::string name;
  bool special = false;      ///< left out of decoded text on request
  bool normalized = false;   ///< looked for after normalization
  bool strip_left = false;   ///< takes the white space before it
  bool strip_right = false;  ///< and behind it
};

/// A stretch of text: an added token, or what lies between (kNoToken).
struct Segment {
  Token token = kNoToken;
  std::string_view text;
};

class AddedTokenFinder {
 public:
  /// `name` is what is looked for; id and stripping come from `token`.
  void add(const std::string& name, const AddedToken& token);
  /// Cuts a text at the added tokens in it: the leftmost first, the longest of those that start there.
  std::vector<Segment> cut(std::string_view text) const;

 private:
  struct Found {
    const AddedToken* token;
    std::size_t bytes;
  };
  Found longest_at(std::string_view text, std::size_t at) const;

  // A tree of the names by bytes; node 0 is the root. tokens_[node] is what ends there, -1 if nothing.
  std::unordered_map<std::uint64_t, std::uint32_t> edges_;
  std::vector<std::int32_t> ends_{-1};
  std::vector<AddedToken> tokens_;
  bool starts_[256] = {};
};

}  // namespace hsattn::lm
