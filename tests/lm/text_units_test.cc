#include "lm/eval/text_units.h"

#include <gtest/gtest.h>

#include "lm/data/files.h"
#include "lm/data/token_writer.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using test::TemporaryFolder;

std::vector<std::int64_t> bytes_of(std::string_view text) {
  std::vector<std::int64_t> tokens;
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

TEST(TextUnits, CountWordsAndBytesOfBytes) {
  const TextUnits units(nullptr, 0, false);
  const struct {
    std::string text;
    Index bytes, words;
  } cases[] = {{"x", 0, 0},
               {" two words", 9, 2},
               {"xgoes on", 7, 1},  // the first word began before
               {" a\n\tb \n", 6, 2},
               {std::string(" end\0start", 10), 8, 2},  // what ends a document is no text
               {"\xc2\xa0 \xc3\xa9\xc2\xa0z", 7, 1}};   // white space of ASCII alone cuts
  for (const auto& c : cases) {
    const TextCount count = units.count(bytes_of(c.text));
    EXPECT_EQ(count.bytes, c.bytes) << c.text;
    EXPECT_EQ(count.words, c.words) << c.text;
  }
}

// As `len(line.split()) + 1` for each line, which is how the literature counts WikiText.
TEST(TextUnits, CountEndsOfLinesOfWikiText) {
  const TextUnits units(nullptr, 0, true);
  EXPECT_EQ(units.count(bytes_of("\n = Title = \n \n A word @-@ pair . \n")).words, 3 + 1 + 0 + 1 + 5 + 1);
}

TEST(TextUnits, OfWindowsAddUpToThoseOfTheWholeText) {
  const TextUnits units(nullptr, 0, true);
  const std::vector<std::int64_t> all = bytes_of(" several words\nover two  lines, cut anywhere \n");
  const TextCount whole = units.count(all);
  for (const std::size_t window : {1, 3, 5, 9}) {
    TextCount sum;
    for (std::size_t begin = 0; begin + 1 < all.size(); begin += window) {
      const std::size_t count = std::min(window + 1, all.size() - begin);
      const TextCount part = units.count(std::span(all).subspan(begin, count));
      sum.bytes += part.bytes, sum.words += part.words;
    }
    EXPECT_EQ(sum.words, whole.words) << window;
    EXPECT_EQ(sum.bytes, whole.bytes) << window;
  }
}

TEST(TextUnits, KnowTheCorpusFromTheDataFolder) {
  const TemporaryFolder folder;
  const std::vector<std::string_view> documents = {"a b\n"};
  write_byte_tokens(folder.file("a.tokens"), documents);
  const TokenFile file(folder.file("a.tokens"));
  const std::vector<std::int64_t> text = bytes_of(" a b\n");
  EXPECT_EQ(TextUnits(file).count(text).words, 2);
  folder.write("data.json", R"({"corpus": "wikitext103"})");
  EXPECT_EQ(TextUnits(file).count(text).words, 3);
}

}  // namespace
}  // namespace hsattn::lm
