// Where a text is cut before byte pairs are merged: the regular expressions of the known tokenizers, written out.
#pragma once

#include <string_view>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// One rule cuts a piece into smaller ones that together are the piece.
enum class SplitRule {
  kGpt2,    ///< contractions, runs of letters, numbers and others with one space before them
  kLlama3,  ///< any sign before letters, numbers of up to three, others with the ends of lines behind them
  kQwen2,   ///< the same with single numbers
  kDigits,  ///< single digits apart from the rest
};

/// The regular expression of a rule as tokenizer.json has it; empty for kDigits.
std::string_view expression_of(SplitRule rule);

/// End of the first piece of `text` from `begin` on. Valid UTF-8; begin < text.size().
std::size_t piece_end(SplitRule rule, std::string_view text, std::size_t begin);

}  // namespace hsattn::lm
