#include "lm/options/lists.h"

#include <charconv>

#include "hsattn/base/error.h"

namespace hsattn::lm {

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    if (c == ',') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  return words;
}

std::vector<Index> parse_lengths(const std::string& text) {
  std::vector<Index> lengths;
  const char *at = text.data(), *end = at + text.size();
  while (at < end) {
    Index length = 0;
    const auto [stop, error] = std::from_chars(at, end, length);
    check(error == std::errc() && length >= 1 && length <= 1 << 26 && (stop == end || *stop == ','), "lengths is ",
          text, "; whole numbers from 1 to 67108864, separated by commas, are right");
    lengths.push_back(length);
    at = stop + 1;
  }
  check(!lengths.empty(), "lengths is empty; whole numbers, separated by commas, are right");
  return lengths;
}

}  // namespace hsattn::lm
