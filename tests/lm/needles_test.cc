// Texts that ask for numbers they named: where the answers are, and that each can be found.
#include "lm/pretrained/needles.h"

#include <gtest/gtest.h>

#include <set>

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

// Every byte is a token.
std::vector<Token> bytes(std::string_view text) { return {text.begin(), text.end()}; }

NeedleWords words_of_bytes() {
  return {bytes, [](Token token) { return token == '.'; }};
}

std::string text_of(std::span<const Token> tokens) { return {tokens.begin(), tokens.end()}; }

std::string filler_text() {
  std::string text;
  while (text.size() < 6000) text += "Some words that say nothing. And more of them follow here. ";
  return text;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Needles, EachAnswerIsNamedOnceBeforeAndAskedAtTheEnd) {
  const std::vector<Token> filler = bytes(filler_text());
  for (const Index numbers : {Index{1}, Index{2}, Index{16}}) {
    const NeedleSample sample = needle_sample(words_of_bytes(), filler, 5000, numbers, 7);
    const std::string text = text_of(sample.tokens);
    ASSERT_EQ(text.size(), 5000u);
    ASSERT_EQ(std::ssize(sample.asked), kDigitsOfNumber * numbers);
    for (std::size_t i = 0; i < sample.asked.size(); i += kDigitsOfNumber) {
      const auto begin = static_cast<std::size_t>(sample.asked[i]);
      EXPECT_EQ(static_cast<std::size_t>(sample.asked[i + kDigitsOfNumber - 1]), begin + kDigitsOfNumber - 1);
      const std::string number = text.substr(begin, kDigitsOfNumber);
      EXPECT_EQ(number.find_first_not_of("0123456789"), std::string::npos) << number;
      const std::size_t subject = text.rfind(" The ", begin);
      const std::string said = text.substr(subject, begin - subject);  // " The pass key is "
      EXPECT_EQ(count(text, said + number + ". Remember it."), 1u) << said;
      EXPECT_LT(text.find(said + number), subject) << said;
    }
    if (numbers == 1) {
      EXPECT_NE(text.find(" The pass key is "), std::string::npos);
    }
  }
}

TEST(Needles, LeaveTheFillerAsItIsAndBeginAfterSentences) {
  const std::string filler = filler_text();
  const std::string text = text_of(needle_sample(words_of_bytes(), bytes(filler), 4000, 1, 3).tokens);
  const std::size_t begin = text.find(" The pass key is");
  EXPECT_EQ(text[begin - 1], '.');
  EXPECT_EQ(text.substr(0, begin), filler.substr(0, begin));
  const std::string last = "is the pass key.";
  const std::size_t end = text.find(last) + last.size(), question = text.find(" What is");
  EXPECT_EQ(text.substr(end, question - end), filler.substr(begin, question - end));
}

TEST(Needles, TheSameSeedIsTheSameTextAndAnotherIsNot) {
  const std::vector<Token> filler = bytes(filler_text());
  std::set<std::vector<Token>> texts;
  for (const std::uint64_t seed : {1, 2, 3, 1}) {
    texts.insert(needle_sample(words_of_bytes(), filler, 3000, 4, seed).tokens);
  }
  EXPECT_EQ(texts.size(), 3u);
}

// Where a tokenizer joins a space and the digits behind it, the joined token is the first of the answer.
TEST(Needles, AnswersBeginWhereTheTextsTokensDiffer) {
  NeedleWords words = words_of_bytes();
  words.encode = [](std::string_view text) {
    std::vector<Token> tokens;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const bool joined = text[i] == ' ' && i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '9';
      tokens.push_back(joined ? 1000u + static_cast<Token>(text[++i]) : static_cast<Token>(text[i]));
    }
    return tokens;
  };
  const NeedleSample sample = needle_sample(words, bytes(filler_text()), 3000, 3, 1);
  ASSERT_EQ(std::ssize(sample.asked), kDigitsOfNumber * 3);
  EXPECT_GE(sample.tokens[static_cast<std::size_t>(sample.asked[0])], 1000u);
}

TEST(Needles, RefuseWhatDoesNotFit) {
  const std::vector<Token> filler = bytes(filler_text());
  EXPECT_THROW(needle_sample(words_of_bytes(), filler, 3000, 0, 1), InvalidArgument);
  EXPECT_THROW(needle_sample(words_of_bytes(), filler, 100000, kMostNumbers + 1, 1), InvalidArgument);
  EXPECT_THROW(needle_sample(words_of_bytes(), filler, 200, 4, 1), InvalidArgument) << "no room";
  EXPECT_THROW(needle_sample(words_of_bytes(), std::span(filler).first(10), 3000, 1, 1), InvalidArgument);
}

}  // namespace
}  // namespace hsattn::lm
