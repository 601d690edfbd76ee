// What needs no other tokenizer to be right; tests/cli/test_tokenizer.py compares with the `tokenizers` package.
#include "lm/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include "hsattn/base/error.h"
#include "lm/tokenizer/unicode.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using test::message_of;
using Tokens = std::vector<Token>;

// All bytes, the merges b+c, a+bc, a+a, a space before a, and two special tokens.
std::string small_tokenizer() {
  std::string vocabulary;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    const char32_t code = printable ? static_cast<char32_t>(byte) : next++;
    vocabulary += byte == '"' || byte == '\\' ? "\"\\" : "\"";
    append_utf8(code, vocabulary);
    vocabulary += "\":" + std::to_string(byte) + ",";
  }
  return R"({"added_tokens":[{"id":260,"content":"<|endoftext|>","special":true},{"id":261,"content":"<|endo","special":true}],)"
         R"("normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},)"
         R"("decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{)" +
         vocabulary + R"("bc":256,"abc":257,"aa":258,"Ġa":259},"merges":[["b","c"],["a","bc"],["a","a"],["Ġ","a"]]}})";
}

Tokens encode(const Tokenizer& tokenizer, std::string_view text) {
  Encoder encoder(tokenizer);
  Tokens tokens;
  encoder.append(text, tokens);
  return tokens;
}

TEST(Tokenizer, MergesByRankThenFromTheLeft) {
  const Tokenizer tokenizer = Tokenizer::parse(small_tokenizer(), "small");
  EXPECT_EQ(tokenizer.vocabulary(), 262);
  const struct {
    std::string text;
    Tokens tokens;
  } cases[] = {{"", {}},
               {"abc", {257}},
               {"aabc", {'a', 257}},
               {"aaa", {258, 'a'}},
               {"a abc", {'a', ' ', 257}},
               {"a ab", {'a', 259, 'b'}},
               {"x<|endoftext|>a", {'x', 260, 'a'}},
               {"<|endo<|end", {261, '<', '|', 'e', 'n', 'd'}}};
  for (const auto& c : cases) EXPECT_EQ(encode(tokenizer, c.text), c.tokens) << c.text;
}

// Pieces longer than what is merged by looking at all pairs, and longer than what is remembered.
TEST(Tokenizer, MergesLongPiecesAsShortOnes) {
  const Tokenizer tokenizer = Tokenizer::parse(small_tokenizer(), "small");
  for (const std::size_t times : {1, 9, 10, 11, 15, 16, 17, 1000}) {
    std::string text;
    Tokens expected;
    for (std::size_t i = 0; i < times; ++i) {
      text += "aaabc";
      expected.insert(expected.end(), {258, 257});
    }
    EXPECT_EQ(encode(tokenizer, text), expected) << times;
  }
}

TEST(Tokenizer, GivesBackTheBytes) {
  const Tokenizer tokenizer = Tokenizer::parse(small_tokenizer(), "small");
  const std::string text = "aabc \n\tна 日本 \U0001f600<|endoftext|>abc";
  const Tokens tokens = encode(tokenizer, text);
  EXPECT_EQ(tokenizer.decode(tokens, false), text);
  EXPECT_EQ(tokenizer.decode(Tokens{'a', 260, 'b'}, true), "ab");
  EXPECT_NE(message_of([&] { tokenizer.decode(Tokens{262}, false); }).find("token 262"), std::string::npos);
  EXPECT_EQ(tokenizer.end_of_text(), 260u);
  EXPECT_TRUE(tokenizer.is_special(261));
}

TEST(Tokenizer, AnEncoderRemembersWithoutMixingUp) {
  const Tokenizer tokenizer = Tokenizer::parse(small_tokenizer(), "small");
  Encoder encoder(tokenizer);
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 100000; ++i) {  // three times as many pieces as are remembered
      const std::string text = std::to_string(i) + "abc";
      Tokens tokens;
      encoder.append(text, tokens);
      ASSERT_EQ(tokenizer.decode(tokens, false), text);
      ASSERT_EQ(tokens.back(), 257u);
    }
  }
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  const struct {
    std::string text;
    std::size_t at;
  } cases[] = {{"", std::string::npos},
               {"plain ascii text, longer than a word", std::string::npos},
               {"\u00e9\u20ac\U0010ffff", std::string::npos},
               {"12345678\xff", 8},
               {"\x80", 0},
               {"a\xc3", 1},
               {"\xc0\xaf", 0},          // overlong
               {"\xe0\x80\x80", 0},      // overlong
               {"\xf0\x80\x80\x80", 0},  // overlong
               {"\xed\xa0\x80", 0},      // surrogate
               {"\xf4\x90\x80\x80", 0},  // past U+10FFFF
               {"\xe2\x82\x41 and more", 0},
               {std::string("\0", 1), std::string::npos}};
  for (const auto& c : cases) EXPECT_EQ(invalid_utf8(c.text), c.at);
}

TEST(NormalFormC, ComposesOrdersAndKeepsApart) {
  const struct {
    std::string text, normal;
  } cases[] = {{"plain", "plain"},
               {"e\u0301", "\u00e9"},
               {"xe\u0301y e", "x\u00e9y e"},
               {"q\u0307\u0323", "q\u0323\u0307"},  // marks in the order of their classes
               {"s\u0307\u0323", "\u1e69"},         // ordered, then composed twice
               {"c\u0300\u0301", "c\u0300\u0301"},  // a mark of the same class stands between
               {"\u0958", "\u0915\u093c"},          // never composes
               {"\u212b", "\u00c5"},                // Angstrom sign
               {"\u1112\u1161\u11ab", "\ud55c"},    // Hangul
               {"\uac00\u11a8", "\uac01"},
               {"\u0301e", "\u0301e"}};
  for (const auto& c : cases) EXPECT_EQ(normal_form_c(c.text), c.normal) << c.text;
}

}  // namespace
}  // namespace hsattn::lm
