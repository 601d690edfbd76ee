// The table of patterns: what tells one from another. A pattern that reads no keys is a function of a place.
#pragma once

#include <span>

#include "hsattn/plan/patterns/place.h"

namespace hsattn {

// Appends at most `most` blocks of the place's past, each once, in any order.
using Rule = void (*)(const Place& place, const HsaOptions& options, Index most, Blocks& out);

struct PatternEntry {
  Pattern pattern;
  const char* name;
  bool lists = false;          // positions attend listed blocks besides their near run
  Rule rule = nullptr;         // which; null with `lists`: the search finds them
  bool global_tokens = false;  // if bidirectional, the tokens of the sinks attend everything themselves
};

std::span<const PatternEntry> pattern_table();

const PatternEntry& entry_of(Pattern pattern);

}  // namespace hsattn
