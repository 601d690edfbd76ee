#include "lm/tokenizer/unicode.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <vector>

namespace hsattn::lm {
namespace {

struct CodeRange {
  std::uint32_t first, last;
  std::uint8_t value;
};
struct CodePair {
  char32_t composed, first, second;
};
struct CodeSequence {
  char32_t composed, parts[3];
};
#include "lm/tokenizer/unicode_tables.inc"

constexpr std::size_t kCodes = 0x110000;

template <std::size_t kRanges>
std::vector<std::uint8_t> expand(const CodeRange (&ranges)[kRanges]) {
  std::vector<std::uint8_t> table(kCodes, 0);
  for (const CodeRange& range : ranges) {
    std::fill(table.begin() + range.first, table.begin() + range.last + 1, range.value);
  }
  return table;
}

// Syllables of Hangul are composed by arithmetic: 19 leading consonants, 21 vowels, 27 trailing consonants or none.
constexpr char32_t kSyllables = 0xac00, kLeading = 0x1100, kVowels = 0x1161, kTrailing = 0x11a7;
constexpr char32_t kVowelCount = 21, kTrailingCount = 28, kSyllableCount = 19 * kVowelCount * kTrailingCount;

std::uint64_t pair_key(char32_t first, char32_t second) { return static_cast<std::uint64_t>(first) << 32 | second; }

struct Normalization {
  std::vector<std::uint8_t> combining = expand(kCombining);
  std::unordered_map<char32_t, const CodePair*> pairs;
  std::unordered_map<char32_t, const CodeSequence*> sequences;
  std::unordered_map<std::uint64_t, char32_t> composed;

  Normalization() {
    for (const CodePair& pair : kPairs) {
      pairs[pair.composed] = &pair;
      composed[pair_key(pair.first, pair.second)] = pair.composed;
    }
    for (const CodeSequence& sequence : kDecomposed) sequences[sequence.composed] = &sequence;
  }

  void decompose(char32_t code, std::u32string& out) const {
    if (code - kSyllables < kSyllableCount) {
      const char32_t index = code - kSyllables, trailing = index % kTrailingCount;
      out.push_back(kLeading + index / (kVowelCount * kTrailingCount));
      out.push_back(kVowels + index / kTrailingCount % kVowelCount);
      if (trailing != 0) out.push_back(kTrailing + trailing);
    } else if (const auto pair = pairs.find(code); pair != pairs.end()) {
      decompose(pair->second->first, out);
      out += pair->second->second;
    } else if (const auto sequence = sequences.find(code); sequence != sequences.end()) {
      for (const char32_t part : sequence->second->parts) {
        if (part != 0) out += part;
      }
    } else {
      out += code;
    }
  }

  // 0 if the two stay apart.
  char32_t compose(char32_t first, char32_t second) const {
    if (first - kLeading < 19 && second - kVowels < kVowelCount) {
      return kSyllables + ((first - kLeading) * kVowelCount + (second - kVowels)) * kTrailingCount;
    }
    if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTrailingCount == 0 &&
        second - kTrailing - 1 < kTrailingCount - 1) {
      return first + (second - kTrailing);
    }
    const auto found = composed.find(pair_key(first, second));
    return found == composed.end() ? 0 : found->second;
  }
};

const Normalization& normalization() {
  static const Normalization tables;
  return tables;
}

// Marks in the order of their classes between any two codes of class 0.
void order_marks(const Normalization& tables, std::u32string& codes) {
  const auto by_class = [&](char32_t a, char32_t b) { return tables.combining[a] < tables.combining[b]; };
  for (std::size_t begin = 0; begin < codes.size();) {
    std::size_t end = begin;
    while (end < codes.size() && tables.combining[codes[end]] != 0) ++end;
    std::stable_sort(codes.begin() + static_cast<std::ptrdiff_t>(begin),
                     codes.begin() + static_cast<std::ptrdiff_t>(end), by_class);
    begin = end + 1;
  }
}

// Each code joins the last one of class 0 before it unless something of its own or a higher class stands between.
std::u32string compose_all(const Normalization& tables, const std::u32string& codes) {
  std::u32string out;
  std::size_t starter = std::u32string::npos;
  int last_class = -1;  // of what stands between the starter and here; -1: nothing
  for (const char32_t code : codes) {
    const int own = tables.combining[code];
    const char32_t joined =
        starter != std::u32string::npos && last_class < own ? tables.compose(out[starter], code) : 0;
    if (joined != 0) {
      out[starter] = joined;
      continue;
    }
    out += code;
    last_class = own;
    if (own == 0) starter = out.size() - 1, last_class = -1;
  }
  return out;
}

bool may_change(char32_t code) { return (code_flags()[code] & kNormalized) != 0; }

std::size_t end_of_change(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const Code code = decode_code(text.data() + at);
    if (!may_change(code.value)) break;
    at += code.bytes;
  }
  return at;
}

void append_normalized(std::string_view text, std::string& out) {
  const Normalization& tables = normalization();
  std::u32string codes;
  for (std::size_t at = 0; at < text.size();) {
    const Code code = decode_code(text.data() + at);
    tables.decompose(code.value, codes);
    at += code.bytes;
  }
  order_marks(tables, codes);
  for (const char32_t code : compose_all(tables, codes)) append_utf8(code, out);
}

bool is_ascii_word(const char* at) {
  std::uint64_t word;
  std::memcpy(&word, at, sizeof word);
  return (word & 0x8080808080808080ull) == 0;
}

}  // namespace

const std::uint8_t* code_flags() {
  static const std::vector<std::uint8_t> table = expand(kClasses);
  return table.data();
}

void append_utf8(char32_t code, std::string& out) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  const auto rest = [&](int shift) { put(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xc0 | code >> 6), rest(0);
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12), rest(6), rest(0);
  } else {
    put(0xf0 | code >> 18), rest(12), rest(6), rest(0);
  }
}

std::size_t invalid_utf8(std::string_view text) {
  const std::size_t size = text.size();
  for (std::size_t i = 0; i < size;) {
    if (i + 8 <= size && is_ascii_word(text.data() + i)) {
      i += 8;
      continue;
    }
    const auto first = static_cast<unsigned char>(text[i]);
    const std::size_t bytes = first < 0x80                     ? 1
                              : first >= 0xc2 && first < 0xe0  ? 2
                              : first >= 0xe0 && first < 0xf0  ? 3
                              : first >= 0xf0 && first <= 0xf4 ? 4
                                                               : 0;
    if (bytes == 0 || i + bytes > size) return i;
    for (std::size_t k = 1; k < bytes; ++k) {
      if ((static_cast<unsigned char>(text[i + k]) & 0xc0) != 0x80) return i;
    }
    const char32_t code = decode_code(text.data() + i).value;
    const bool overlong = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
    if (overlong || (code >= 0xd800 && code < 0xe000) || code >= kCodes) return i;
    i += bytes;
  }
  return std::string_view::npos;
}

std::string normal_form_c(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  // A code without the flag neither changes nor joins what stands before it: what goes through the tables begins at the
  // last such code before one with the flag and ends at the next one.
  std::size_t copied = 0, last = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (at + 8 <= text.size() && is_ascii_word(text.data() + at)) {
      last = at + 7;
      at += 8;
      continue;
    }
    const Code code = decode_code(text.data() + at);
    if (!may_change(code.value)) {
      last = at;
      at += code.bytes;
      continue;
    }
    out.append(text.substr(copied, last - copied));
    at = end_of_change(text, at);
    append_normalized(text.substr(last, at - last), out);
    copied = last = at;
  }
  return out.append(text.substr(copied));
}

}  // namespace hsattn::lm
