// Questions whose answers stand far before them in a text: what a model finds again. No torch here.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "lm/tokenizer/tokenizer.h"

namespace hsattn::lm {

/// How texts become tokens, and which tokens end a sentence.
struct NeedleWords {
  std::function<std::vector<Token>(std::string_view)> encode;
  std::function<bool(Token)> ends_sentence;
};

/// A text with its questions answered, as a model would read it with the right tokens given so far.
struct NeedleSample {
  std::vector<Token> tokens;
  std::vector<Index> asked;  ///< places of the answers' digits in `tokens`, ascending
};

/// `filler` with sentences strewn in that each name a number of five digits, and at the end a question after each of
/// them, in another order. One number: "The pass key is 58219. Remember it."; several: "The number of the red boat is
/// 58219. Remember it." `tokens` tokens in all; the same for the same seed. Throws InvalidArgument: the filler is
/// shorter than what is left for it, or nothing is left; numbers is not 1 to kMostNumbers.
NeedleSample needle_sample(const NeedleWords& words, std::span<const Token> filler, Index tokens, Index numbers,
                           std::uint64_t seed);

constexpr Index kMostNumbers = 144;
constexpr Index kDigitsOfNumber = 5;

}  // namespace hsattn::lm
