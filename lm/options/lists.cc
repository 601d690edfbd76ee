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

std::vector<Index> parse_numbers(const std::string& name, const std::string& text) {
  std::vector<Index> numbers;
  if (text.empty()) return numbers;
  for (const std::string& word : split_list(text)) {
    const char* end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(word.data(), end, numbers.emplace_back());
    check(error == std::errc() && stop == end, name, " is ", text, "; whole numbers, separated by commas, are right");
  }
  return numbers;
}

std::vector<Index> parse_lengths(const std::string& text) {
  const std::vector<Index> lengths = parse_numbers("lengths", text);
  check(!lengths.empty(), "lengths is empty; whole numbers, separated by commas, are right");
  for (const Index length : lengths) {
    check(length >= 1 && length <= 1 << 26, "lengths is ", text, "; whole numbers from 1 to 67108864 are right");
  }
  return lengths;
}

}  // namespace hsattn::lm
