#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"
#include "lm/pretrained/template/parser.h"

namespace hsattn::lm::jinja {
namespace {

constexpr int kDeepestExpression = 200;  // expressions in each other, so that no template exhausts the stack

// Operators of the same level, from the loosest on.
constexpr std::array<std::array<std::string_view, 4>, 3> kLevels = {{{"+", "-"}, {"~"}, {"*", "/", "//", "%"}}};

std::optional<std::string_view> comparison(const WordReader& words) {
  for (const std::string_view sign : {"==", "!=", "<=", ">=", "<", ">"}) {
    if (words.is_sign(sign)) return sign;
  }
  if (words.is_name("in")) return "in";
  return std::nullopt;
}

bool begins_argument(const WordReader& words) {
  const Word& word = words.next();
  if (word.kind == Word::Kind::kName) {
    static constexpr std::array<std::string_view, 7> kWords = {"else", "or", "and", "if", "is", "in", "not"};
    return std::find(kWords.begin(), kWords.end(), word.text) == kWords.end();
  }
  return word.kind == Word::Kind::kString || word.kind == Word::Kind::kInteger || word.kind == Word::Kind::kFloat ||
         words.is_sign("[") || words.is_sign("{");
}

}  // namespace

// Counts how deep the parser is.
class ExpressionParser::Depth {
 public:
  explicit Depth(ExpressionParser& parser) : parser_(parser) {
    if (++parser.depth_ > kDeepestExpression) {
      throw FileError(
          concat("line ", parser.words_.next().line, ": expressions in each other, more than ", kDeepestExpression));
    }
  }
  ~Depth() { --parser_.depth_; }
  Depth(const Depth&) = delete;
  Depth& operator=(const Depth&) = delete;

 private:
  ExpressionParser& parser_;
};

ExpressionPointer ExpressionParser::make(Kind kind, std::string text) const {
  auto made = std::make_unique<Expression>();
  made->kind = kind;
  made->line = words_.next().line;
  made->text = std::move(text);
  return made;
}

template <class... Parts>
ExpressionPointer ExpressionParser::make_of(Kind kind, std::string text, Parts... parts) const {
  ExpressionPointer made = make(kind, std::move(text));
  (made->parts.push_back(std::move(parts)), ...);
  return made;
}

ExpressionPointer ExpressionParser::parse(bool conditional) {
  const Depth deeper(*this);
  ExpressionPointer value = parse_or();
  while (conditional && words_.take_name("if")) {
    ExpressionPointer condition = parse_or();
    ExpressionPointer otherwise = words_.take_name("else") ? parse() : nullptr;
    value = make_of(Kind::kConditional, "", std::move(condition), std::move(value), std::move(otherwise));
  }
  return value;
}

ExpressionPointer ExpressionParser::parse_or() {
  ExpressionPointer left = parse_and();
  while (words_.take_name("or")) left = make_of(Kind::kOr, "", std::move(left), parse_and());
  return left;
}

ExpressionPointer ExpressionParser::parse_and() {
  ExpressionPointer left = parse_not();
  while (words_.take_name("and")) left = make_of(Kind::kAnd, "", std::move(left), parse_not());
  return left;
}

ExpressionPointer ExpressionParser::parse_not() {
  const Depth deeper(*this);
  if (words_.take_name("not")) return make_of(Kind::kNot, "", parse_not());
  return parse_comparison();
}

ExpressionPointer ExpressionParser::parse_comparison() {
  ExpressionPointer first = parse_arithmetic(0);
  ExpressionPointer all;
  while (true) {
    std::string sign;
    if (const auto found = comparison(words_)) {
      sign = *found;
      words_.take();
    } else if (words_.is_name("not")) {
      words_.take();
      words_.expect(Word::Kind::kName, "in", "");
      sign = "not in";
    } else {
      break;
    }
    if (!all) all = make_of(Kind::kComparison, "", std::move(first));
    all->operators.push_back(sign);
    all->parts.push_back(parse_arithmetic(0));
  }
  return all ? std::move(all) : std::move(first);
}

ExpressionPointer ExpressionParser::parse_arithmetic(int level) {
  if (level == static_cast<int>(kLevels.size())) return parse_unary(true);
  ExpressionPointer left = parse_arithmetic(level + 1);
  while (true) {
    std::string sign;
    for (const std::string_view candidate : kLevels[static_cast<std::size_t>(level)]) {
      if (!candidate.empty() && words_.take_sign(candidate)) sign = candidate;
    }
    if (sign.empty()) return left;
    left = make_of(Kind::kArithmetic, sign, std::move(left), parse_arithmetic(level + 1));
  }
}

// A sign binds looser than what follows a value, and tighter than filters: -a.b | c is (-(a.b)) | c.
ExpressionPointer ExpressionParser::parse_unary(bool filters) {
  const Depth deeper(*this);
  ExpressionPointer value;
  if (words_.take_sign("-")) {
    value = make_of(Kind::kNegative, "", parse_unary(false));
  } else if (words_.take_sign("+")) {
    value = parse_unary(false);
  } else {
    value = parse_postfix(parse_primary());
  }
  return filters ? parse_filters(std::move(value)) : std::move(value);
}

ExpressionPointer ExpressionParser::parse_postfix(ExpressionPointer value) {
  while (true) {
    if (words_.take_sign(".")) {
      if (words_.next().kind == Word::Kind::kInteger) words_.fail_at_next("a name");
      value = make_of(Kind::kAttribute, words_.expect_any_name(), std::move(value));
    } else if (words_.take_sign("[")) {
      value = parse_subscript(std::move(value));
    } else if (words_.take_sign("(")) {
      value = make_of(Kind::kCall, "", std::move(value));
      parse_arguments(*value);
    } else {
      return value;
    }
  }
}

ExpressionPointer ExpressionParser::parse_filters(ExpressionPointer value) {
  while (true) {
    if (words_.take_sign("|")) {
      value = make_of(Kind::kFilter, words_.expect_any_name(), std::move(value));
      if (words_.take_sign("(")) parse_arguments(*value);
    } else if (words_.take_name("is")) {
      value = parse_test(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPointer ExpressionParser::parse_test(ExpressionPointer value) {
  const bool negated = words_.take_name("not");
  ExpressionPointer test = make_of(Kind::kTest, words_.expect_any_name(), std::move(value));
  if (words_.take_sign("(")) {
    parse_arguments(*test);
  } else if (begins_argument(words_)) {  // one without brackets
    test->parts.push_back(parse_postfix(parse_primary()));
  }
  return negated ? make_of(Kind::kNot, "", std::move(test)) : std::move(test);
}

ExpressionPointer ExpressionParser::parse_primary() {
  const Word word = words_.take();
  ExpressionPointer literal = make(Kind::kLiteral);
  literal->line = word.line;
  switch (word.kind) {
    case Word::Kind::kString: {
      std::string text = word.text;
      while (words_.next().kind == Word::Kind::kString) text += words_.take().text;
      literal->literal = Value(std::move(text));
      return literal;
    }
    case Word::Kind::kInteger: {
      std::int64_t number = 0;
      const auto [end, error] = std::from_chars(word.text.data(), word.text.data() + word.text.size(), number);
      if (error != std::errc())
        throw FileError(concat("line ", word.line, ": the number ", quoted(word.text), " is too large"));
      literal->literal = Value(number);
      return literal;
    }
    case Word::Kind::kFloat:
      literal->literal = Value(std::strtod(word.text.c_str(), nullptr));
      return literal;
    case Word::Kind::kName:
      if (word.text == "true" || word.text == "True") return literal->literal = Value(true), std::move(literal);
      if (word.text == "false" || word.text == "False") return literal->literal = Value(false), std::move(literal);
      if (word.text == "none" || word.text == "None") return literal;
      return make(Kind::kName, word.text);
    case Word::Kind::kSign:
      if (word.text == "(") return parse_items(")");
      if (word.text == "[") return parse_items("]");
      if (word.text == "{") return parse_object();
      break;
    default:
      break;
  }
  throw FileError(concat("line ", word.line, ": a value is expected where ",
                         word.text.empty() ? "a tag ends" : word.text, " stands"));
}

// A list, or, in round brackets, a tuple or an expression alone.
ExpressionPointer ExpressionParser::parse_items(const char* end) {
  ExpressionPointer list = make(Kind::kList);
  bool comma = false;
  while (!words_.take_sign(end)) {
    if (!list->parts.empty() && !comma) words_.fail_at_next(concat(", or ", end));
    list->parts.push_back(parse());
    comma = words_.take_sign(",");
  }
  const bool brackets = *end == ')' && list->parts.size() == 1 && !comma;
  return brackets ? std::move(list->parts[0]) : std::move(list);
}

ExpressionPointer ExpressionParser::parse_object() {
  ExpressionPointer object = make(Kind::kObject);
  bool comma = true;
  while (!words_.take_sign("}")) {
    if (!comma) words_.fail_at_next(", or }");
    object->parts.push_back(parse());
    words_.expect_sign(":");
    object->parts.push_back(parse());
    comma = words_.take_sign(",");
  }
  return object;
}

ExpressionPointer ExpressionParser::parse_subscript(ExpressionPointer value) {
  std::vector<ExpressionPointer> bounds(1);
  while (!words_.take_sign("]")) {
    if (words_.take_sign(":")) {
      if (bounds.size() == 3) words_.fail_at_next("]");
      bounds.emplace_back();
    } else if (bounds.back()) {
      words_.fail_at_next("]");
    } else {
      bounds.back() = parse();
    }
  }
  const bool slice = bounds.size() > 1;
  if (!slice && !bounds[0]) words_.fail_at_next("an index before ]");
  ExpressionPointer made = make_of(slice ? Kind::kSlice : Kind::kItem, "", std::move(value));
  if (slice) bounds.resize(3);
  for (ExpressionPointer& bound : bounds) made->parts.push_back(std::move(bound));
  return made;
}

void ExpressionParser::parse_arguments(Expression& call) {
  bool comma = true;
  while (!words_.take_sign(")")) {
    if (!comma) words_.fail_at_next(", or )");
    if (words_.next().kind == Word::Kind::kName && words_.followed_by_sign("=")) {
      std::string name = words_.take().text;
      words_.take();
      call.named.emplace_back(std::move(name), parse());
    } else {
      if (words_.is_sign("*") || words_.is_sign("**"))
        throw Unsupported(concat("line ", words_.next().line, ": arguments with * are not supported"));
      call.parts.push_back(parse());
    }
    comma = words_.take_sign(",");
  }
}

}  // namespace hsattn::lm::jinja
