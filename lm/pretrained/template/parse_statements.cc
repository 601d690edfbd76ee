#include <algorithm>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"
#include "lm/pretrained/template/parser.h"

namespace hsattn::lm::jinja {
namespace {

constexpr int kDeepestBlock = 100;  // blocks in each other

class StatementParser {
 public:
  explicit StatementParser(std::string_view text) : words_(words_of_template(text)), expressions_(words_) {}

  Block parse() {
    Block block = parse_block({});
    return block;
  }

 private:
  using Kind = Statement::Kind;

  // Up to one of the tags `ends`, whose name is left to be read, or the end of the template if there are none.
  Block parse_block(const std::vector<std::string_view>& ends) {
    Block block;
    if (++depth_ > kDeepestBlock) throw FileError(concat("blocks in each other, more than ", kDeepestBlock));
    while (true) {
      const Word word = words_.take();
      if (word.kind == Word::Kind::kEnd) {
        if (!ends.empty()) throw FileError(concat("line ", word.line, ": no ", ends.back(), " before the end"));
        break;
      }
      if (word.kind == Word::Kind::kText) {
        block.push_back({Kind::kText, word.line, word.text, {}, {}, {}});
      } else if (word.kind == Word::Kind::kPrintBegin) {
        Statement print{Kind::kPrint, word.line, {}, {}, {}, {}};
        print.expressions.push_back(expressions_.parse());
        words_.expect(Word::Kind::kPrintEnd, "", "}}");
        block.push_back(std::move(print));
      } else {
        const std::string name = words_.next().text;
        if (std::find(ends.begin(), ends.end(), name) != ends.end()) break;
        words_.expect_any_name();
        block.push_back(parse_tag(name, word.line));
      }
    }
    --depth_;
    return block;
  }

  Statement parse_tag(const std::string& name, int line) {
    Statement statement{Kind::kIf, line, {}, {}, {}, {}};
    if (name == "if") {
      parse_if(statement);
    } else if (name == "for") {
      parse_for(statement);
    } else if (name == "set") {
      parse_set(statement);
    } else if (name == "generation" || name == "endgeneration") {  // marks what a model has written; changes no text
      statement.kind = Kind::kText;
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) throw FileError(concat("line ", line, ": ", name, " outside of a loop"));
      statement.kind = name == "break" ? Kind::kBreak : Kind::kContinue;
    } else {
      throw Unsupported(
          concat("line ", line, ": the tag ", quoted(name), " is not supported; if, for, set, break and continue are"));
    }
    words_.expect(Word::Kind::kBlockEnd, "", "%}");
    return statement;
  }

  void parse_if(Statement& statement) {
    statement.expressions.push_back(expressions_.parse());
    words_.expect(Word::Kind::kBlockEnd, "", "%}");
    while (true) {
      statement.blocks.push_back(parse_block({"elif", "else", "endif"}));
      const std::string end = words_.expect_any_name();
      if (end == "endif") return;
      if (end == "elif") {
        statement.expressions.push_back(expressions_.parse());
        words_.expect(Word::Kind::kBlockEnd, "", "%}");
        continue;
      }
      words_.expect(Word::Kind::kBlockEnd, "", "%}");
      statement.blocks.push_back(parse_block({"endif"}));
      words_.expect_any_name();
      return;
    }
  }

  void parse_for(Statement& statement) {
    statement.kind = Kind::kFor;
    do {
      statement.targets.push_back(words_.expect_any_name());
    } while (words_.take_sign(","));
    words_.expect(Word::Kind::kName, "in", "in");
    statement.expressions.push_back(expressions_.parse(/*conditional=*/false));
    if (words_.take_name("if")) statement.expressions.push_back(expressions_.parse());
    if (words_.is_name("recursive"))
      throw Unsupported(concat("line ", statement.line, ": recursive loops are not supported"));
    words_.expect(Word::Kind::kBlockEnd, "", "%}");
    ++loops_;
    statement.blocks.push_back(parse_block({"else", "endfor"}));
    --loops_;
    if (words_.expect_any_name() == "endfor") return;
    words_.expect(Word::Kind::kBlockEnd, "", "%}");
    statement.blocks.push_back(parse_block({"endfor"}));
    words_.expect_any_name();
  }

  void parse_set(Statement& statement) {
    statement.kind = Kind::kSet;
    statement.targets.push_back(words_.expect_any_name());
    if (words_.take_sign(".")) statement.targets.push_back(words_.expect_any_name());
    if (!words_.take_sign("=")) {
      throw Unsupported(concat("line ", statement.line, ": only `set name = value` is supported"));
    }
    statement.expressions.push_back(expressions_.parse());
  }

  WordReader words_;
  ExpressionParser expressions_;
  int depth_ = 0, loops_ = 0;
};

}  // namespace

void WordReader::expect(Word::Kind kind, std::string_view text, const char* what) {
  if (!is(kind, text)) fail_at_next(text.empty() ? what : std::string(text));
  take();
}

std::string WordReader::expect_any_name() {
  if (next().kind != Word::Kind::kName) fail_at_next("a name");
  return take().text;
}

bool WordReader::followed_by_sign(std::string_view text) const {
  return at_ + 1 < words_.size() && words_[at_ + 1].kind == Word::Kind::kSign && words_[at_ + 1].text == text;
}

void WordReader::fail_at_next(const std::string& expected) const {
  const std::string found = next().kind == Word::Kind::kEnd ? "the end"
                            : next().text.empty()           ? "a tag"
                                                            : quoted(next().text);
  throw FileError(concat("line ", next().line, ": ", expected, " is expected where ", found, " stands"));
}

Block parse_template(std::string_view text) { return StatementParser(text).parse(); }

}  // namespace hsattn::lm::jinja
