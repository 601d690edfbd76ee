// Texts in which every passage comes a second time: what stands far before decides what comes next.
#pragma once

#include <string>
#include <string_view>

#include "hsattn/base/types.h"

namespace hsattn::lm {

struct Repeats {
  Index passage = 0;            ///< bytes of a passage, on average; 0: texts stay as they are
  Index from = 128, to = 4096;  ///< bytes between a passage and its second time; `to` is at least twice `from`
};

/// Throws InvalidArgument, naming the option.
void check_repeats(const Repeats& repeats);

/// `text` cut into passages of half to one and a half times `passage` bytes and on to behind the next space, each of
/// them written twice. Between the two lie `from` to `to` bytes, every doubling from `from` on being as likely as the
/// others, and somewhat more where other passages were due. What would come again behind the end of the text comes
/// once. A function of its arguments alone.
std::string with_repeats(std::string_view text, const Repeats& repeats, Index seed);

}  // namespace hsattn::lm
