// Merging of byte pairs: the bytes of a piece become tokens, the pair of the lowest rank first.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

using Token = std::uint32_t;
constexpr Token kNoToken = ~Token{0};

/// What two neighbouring tokens become.
struct Merge {
  Token left, right, into;
};

/// The rules: tokens of single bytes, merges by rank. Immutable, may be shared by threads.
class BytePairs {
 public:
  /// `bytes[b]` is the token of byte b; kNoToken: such bytes become `unknown`, or vanish if that is kNoToken too.
  /// `merges` ascend by rank; of two for the same pair the last one counts.
  BytePairs(const std::array<Token, 256>& bytes, Token unknown, const std::vector<Merge>& merges);

  /// Appends the tokens of `piece`.
  void append(std::string_view piece, std::vector<Token>& out) const;

 private:
  struct Rule {
    std::uint64_t pair = ~std::uint64_t{0};
    std::uint32_t rank = ~std::uint32_t{0};
    Token into = kNoToken;
  };
  static std::uint64_t key(Token left, Token right) { return static_cast<std::uint64_t>(left) << 32 | right; }
  std::size_t slot(std::uint64_t pair) const { return (pair * 0x9e3779b97f4a7c15ull) >> shift_; }
  const Rule& find(Token left, Token right) const;
  void merge_short(std::vector<Token>& tokens, std::size_t begin) const;
  void merge_long(std::vector<Token>& tokens, std::size_t begin) const;

  std::array<Token, 256> bytes_;
  Token unknown_;
  std::vector<Rule> rules_;  // open addressing, half empty; the last one stands for "none"
  int shift_;
};

}  // namespace hsattn::lm
