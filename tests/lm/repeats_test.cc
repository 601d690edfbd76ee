// Texts whose passages come twice: where, how often, and always the same.
#include "lm/data/repeats.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "hsattn/base/error.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using test::message_of;

// Words that differ: each says its own number.
std::string numbered(int words) {
  std::string text;
  for (int i = 0; i < words; ++i) text += concat("w", i, i % 10 == 9 ? "\n" : " ");
  return text;
}

// First byte of each word in the order of the text, by word.
std::map<std::string, std::vector<Index>> places_of(const std::string& text) {
  std::map<std::string, std::vector<Index>> places;
  for (std::size_t at = text.find_first_not_of(" \n"); at < text.size();) {
    const std::size_t end = std::min(text.find_first_of(" \n", at), text.size());
    places[text.substr(at, end - at)].push_back(static_cast<Index>(at));
    at = std::min(text.find_first_not_of(" \n", end), text.size());
  }
  return places;
}

TEST(Repeats, EveryPassageComesTwiceWithinTheDistance) {
  constexpr Repeats kRepeats{.passage = 50, .from = 100, .to = 1600};
  const std::string text = with_repeats(numbered(5000), kRepeats, 3);
  const auto places = places_of(text);
  EXPECT_EQ(places.size(), 5000u);
  Index twice = 0;
  std::vector<Index> by_doubling(5);
  for (const auto& [word, at] : places) {
    ASSERT_LE(at.size(), 2u) << word;
    if (at.size() == 1) {
      EXPECT_GE(at[0] + 2 * kRepeats.to, static_cast<Index>(text.size())) << word << " would have come again";
      continue;
    }
    ++twice;
    const Index distance = at[1] - at[0];
    EXPECT_GE(distance, kRepeats.from) << word;
    EXPECT_LE(distance, 2 * kRepeats.to) << word;  // some wait for others
    for (std::size_t i = 0; i < by_doubling.size(); ++i) by_doubling[i] += distance >= kRepeats.from << i;
  }
  EXPECT_GT(twice, 4500);
  EXPECT_GT(by_doubling[1], twice / 2);  // as many in each doubling, and those that waited are later
  EXPECT_GT(by_doubling[3], twice / 5);
  EXPECT_LT(by_doubling[3], twice / 2);
}

TEST(Repeats, AreAFunctionOfTextAndSeed) {
  const std::string text = numbered(500);
  constexpr Repeats kRepeats{.passage = 40, .from = 64, .to = 512};
  EXPECT_EQ(with_repeats(text, kRepeats, 1), with_repeats(text, kRepeats, 1));
  EXPECT_NE(with_repeats(text, kRepeats, 1), with_repeats(text, kRepeats, 2));
  EXPECT_EQ(with_repeats(text, {}, 1), text);
  EXPECT_EQ(with_repeats("", kRepeats, 1), "");
  EXPECT_EQ(with_repeats("one", kRepeats, 1), "one");
}

TEST(Repeats, NeverCutACharacter) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "\u20ac\u00e9 ";
  const std::string twice = with_repeats(text, {.passage = 7, .from = 8, .to = 16}, 1);
  for (const auto& [word, at] : places_of(twice)) EXPECT_EQ(word, "\u20ac\u00e9");
}

TEST(Repeats, NameWhatIsWrong) {
  const struct {
    Repeats repeats;
    const char* says;
  } cases[] = {{{.passage = -1}, "repeat_passages is -1"},
               {{.passage = 10, .from = 0}, "repeat_from is 0"},
               {{.passage = 10, .from = 100, .to = 199}, "at least twice as much"},
               {{.passage = 10, .from = 1, .to = Index{1} << 40}, "up to 1073741824"}};
  for (const auto& c : cases) {
    EXPECT_NE(message_of([&] { check_repeats(c.repeats); }).find(c.says), std::string::npos) << c.says;
  }
  check_repeats({});
}

}  // namespace
}  // namespace hsattn::lm
