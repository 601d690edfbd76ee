// What a template says, as a tree.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lm/pretrained/template/value.h"

namespace hsattn::lm::jinja {

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,    ///< literal
    kName,       ///< text
    kAttribute,  ///< parts[0].text
    kItem,       ///< parts[0][parts[1]]
    kSlice,      ///< parts[0][parts[1]:parts[2]:parts[3]]; null where nothing stands
    kCall,       ///< parts[0](parts[1], ..., named)
    kFilter,     ///< parts[0] | text(parts[1], ..., named)
    kTest,       ///< parts[0] is text(parts[1], ...)
    kNot,        ///< not parts[0]
    kNegative,   ///< -parts[0]
    kAnd,
    kOr,           ///< parts[0] and parts[1]
    kArithmetic,   ///< parts[0] text parts[1]: + - * / // % ~
    kComparison,   ///< parts[0] operators[0] parts[1] operators[1] parts[2] ...
    kConditional,  ///< parts[1] if parts[0] else parts[2]; parts[2] may be null
    kList,         ///< [parts...]
    kObject        ///< {parts[0]: parts[1], ...}
  };
  Kind kind;
  int line = 0;
  std::string text;
  Value literal;
  std::vector<ExpressionPointer> parts;
  std::vector<std::pair<std::string, ExpressionPointer>> named;
  std::vector<std::string> operators;
};

struct Statement;
using Block = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,   ///< text
    kPrint,  ///< {{ expressions[0] }}
    kIf,     ///< blocks[i] of the first true expressions[i]; one more block is that of else
    kFor,    ///< for targets in expressions[0] if expressions[1]: blocks[0], else blocks[1]
    kSet,    ///< targets[0] = expressions[0], or targets[0].targets[1]
    kBreak,
    kContinue
  };
  Kind kind;
  int line = 0;
  std::string text;
  std::vector<std::string> targets;
  std::vector<ExpressionPointer> expressions;
  std::vector<Block> blocks;
};

}  // namespace hsattn::lm::jinja
