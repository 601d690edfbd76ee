#include "lm/data/repeats.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <vector>

#include "hsattn/base/error.h"
#include "lm/data/dice.h"
#include "lm/data/files.h"

namespace hsattn::lm {
namespace {

// A passage that waits for its second time.
struct Due {
  std::size_t at;      // bytes written before it may come
  std::size_t number;  // of those that are due at once, the first comes first
  std::string_view text;

  bool operator>(const Due& other) const { return std::tie(at, number) > std::tie(other.at, other.number); }
};

std::uint64_t seed_of(std::string_view text, Index seed) {
  Fnv64 hash;
  hash.add(&seed, sizeof seed);
  hash.add(text.data(), text.size());
  return hash.value();
}

// Whole numbers alone, so that every machine writes the same text.
Index draw_distance(const Repeats& r, Dice& dice) {
  Index doublings = 0;
  while (r.from << (doublings + 1) <= r.to) ++doublings;
  const Index least = r.from << dice.below(doublings);
  return dice.between(least, 2 * least - 1);
}

// Texts break behind spaces, so that a tokenizer sees the same words both times.
std::size_t behind_next_space(std::string_view text, std::size_t at) {
  const std::size_t space = at >= text.size() ? std::string_view::npos : text.find_first_of(" \n", at);
  return space == std::string_view::npos ? text.size() : space + 1;
}

}  // namespace

void check_repeats(const Repeats& r) {
  check(r.passage >= 0 && r.passage <= 1 << 20, "repeat_passages is ", r.passage, "; 0 to 1048576 is right");
  if (r.passage == 0) return;
  check(r.from >= 1 && r.to <= 1 << 30 && r.to / 2 >= r.from, "repeat_from is ", r.from, ", repeat_to is ", r.to,
        "; 1 or more, and at least twice as much, up to 1073741824, is right");
}

std::string with_repeats(std::string_view text, const Repeats& repeats, Index seed) {
  if (repeats.passage == 0) return std::string(text);
  Dice dice(seed_of(text, seed));
  std::priority_queue<Due, std::vector<Due>, std::greater<>> waiting;
  std::string out;
  out.reserve(2 * text.size());
  for (std::size_t at = 0, number = 0; at < text.size();) {
    if (!waiting.empty() && waiting.top().at <= out.size()) {
      out += waiting.top().text;
      waiting.pop();
      continue;
    }
    const Index bytes = dice.between(std::max<Index>(repeats.passage / 2, 1), repeats.passage + repeats.passage / 2);
    const std::size_t end = behind_next_space(text, at + static_cast<std::size_t>(bytes));
    const std::string_view passage = text.substr(at, end - at);
    out += passage;
    waiting.push({out.size() + static_cast<std::size_t>(draw_distance(repeats, dice)), number++, passage});
    at = end;
  }
  return out;
}

}  // namespace hsattn::lm
