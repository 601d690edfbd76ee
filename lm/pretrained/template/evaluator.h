// Runs the tree of a template.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lm/pretrained/template/functions.h"
#include "lm/pretrained/template/syntax.h"

namespace hsattn::lm::jinja {

class Evaluator {
 public:
  explicit Evaluator(const Object& variables);

  /// The text that the template makes. Throws FileError, naming the line; Unsupported.
  std::string render(const Block& block);

 private:
  enum class Flow { kOn, kBreak, kContinue };
  using Kind = Expression::Kind;

  Flow run(const Block& block);
  Flow run(const Statement& statement);
  Flow run_if(const Statement& statement);
  Flow run_for(const Statement& statement);
  void run_set(const Statement& statement);
  void set_targets(const std::vector<std::string>& targets, const Value& value);
  void print(const std::string& text);

  Value evaluate(const Expression& e);
  Value evaluate_kind(const Expression& e);
  Value name(const std::string& name) const;
  Value attribute(const Value& value, const std::string& name) const;
  Value item(const Value& value, const Value& index) const;
  Value slice(const Expression& e);
  Value call(const Expression& e);
  Value arithmetic(const Expression& e);
  bool compare(const Expression& e);
  Arguments arguments(const Expression& e);
  void count_step();

  std::vector<std::map<std::string, Value>> scopes_;  // the innermost last
  std::string out_;
  long steps_ = 0;
  std::size_t made_ = 0;  // bytes of texts that + and ~ made
};

}  // namespace hsattn::lm::jinja
