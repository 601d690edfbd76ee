// A template's words into a tree.
#pragma once

#include <string_view>

#include "lm/pretrained/template/lexer.h"
#include "lm/pretrained/template/syntax.h"

namespace hsattn::lm::jinja {

/// The words of a template, read one after another. Errors (FileError) name the line.
class WordReader {
 public:
  explicit WordReader(std::vector<Word> words) : words_(std::move(words)) {}

  const Word& next() const { return words_[at_]; }
  bool is(Word::Kind kind, std::string_view text) const { return next().kind == kind && next().text == text; }
  bool is_sign(std::string_view text) const { return is(Word::Kind::kSign, text); }
  bool is_name(std::string_view text) const { return is(Word::Kind::kName, text); }
  /// Steps over the next word if it is this one.
  bool take_sign(std::string_view text) { return is_sign(text) && (++at_, true); }
  bool take_name(std::string_view text) { return is_name(text) && (++at_, true); }
  Word take() { return words_[at_ + 1 < words_.size() ? at_++ : at_]; }
  void expect(Word::Kind kind, std::string_view text, const char* what);
  void expect_sign(std::string_view text) { expect(Word::Kind::kSign, text, ""); }
  std::string expect_any_name();
  bool followed_by_sign(std::string_view text) const;
  [[noreturn]] void fail_at_next(const std::string& expected) const;

 private:
  std::vector<Word> words_;
  std::size_t at_ = 0;
};

/// An expression at the words' place. Throws FileError; Unsupported for what is not supported.
class ExpressionParser {
 public:
  explicit ExpressionParser(WordReader& words) : words_(words) {}

  /// With `conditional` false `a if b else c` ends before `if`, as in the list of a for.
  ExpressionPointer parse(bool conditional = true);

 private:
  using Kind = Expression::Kind;
  class Depth;
  ExpressionPointer make(Kind kind, std::string text = {}) const;
  template <class... Parts>
  ExpressionPointer make_of(Kind kind, std::string text, Parts... parts) const;
  ExpressionPointer parse_or();
  ExpressionPointer parse_and();
  ExpressionPointer parse_not();
  ExpressionPointer parse_comparison();
  ExpressionPointer parse_arithmetic(int level);
  ExpressionPointer parse_unary(bool filters);
  ExpressionPointer parse_postfix(ExpressionPointer value);
  ExpressionPointer parse_filters(ExpressionPointer value);
  ExpressionPointer parse_test(ExpressionPointer value);
  ExpressionPointer parse_primary();
  ExpressionPointer parse_items(const char* end);
  ExpressionPointer parse_object();
  ExpressionPointer parse_subscript(ExpressionPointer value);
  void parse_arguments(Expression& call);

  WordReader& words_;
  int depth_ = 0;
};

/// The whole template.
Block parse_template(std::string_view text);

}  // namespace hsattn::lm::jinja
