#include "lm/pretrained/template/evaluator.h"

#include <algorithm>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"

namespace hsattn::lm::jinja {
namespace {

// Far above what any conversation needs; a template that asks for more is damaged or means ill.
constexpr long kMostSteps = 5'000'000;

// Errors of an expression name its line, once.
template <class Body>
auto at_line(int line, Body body) {
  try {
    return body();
  } catch (const Unsupported& error) {
    if (std::string_view(error.what()).starts_with("line ")) throw;
    throw Unsupported(concat("line ", line, ": ", error.what()));
  } catch (const FileError& error) {
    if (std::string_view(error.what()).starts_with("line ")) throw;
    throw FileError(concat("line ", line, ": ", error.what()));
  }
}

Value loop_value(std::size_t i, const List& items) {
  const auto index = static_cast<std::int64_t>(i), count = static_cast<std::int64_t>(items.size());
  Object loop;
  loop.members = {{"index", index + 1},
                  {"index0", index},
                  {"first", i == 0},
                  {"last", index + 1 == count},
                  {"revindex", count - index},
                  {"revindex0", count - index - 1},
                  {"length", count}};
  loop.set("previtem", i > 0 ? items[i - 1] : Value(Undefined{"previtem"}));
  loop.set("nextitem", i + 1 < items.size() ? items[i + 1] : Value(Undefined{"nextitem"}));
  return loop;
}

}  // namespace

Evaluator::Evaluator(const Object& variables) : scopes_(1) {
  for (const auto& [name, value] : variables.members) scopes_[0].insert_or_assign(name, value);
}

std::string Evaluator::render(const Block& block) {
  run(block);
  return std::move(out_);
}

void Evaluator::count_step() {
  if (++steps_ > kMostSteps) throw FileError("the template does not come to an end");
}

void Evaluator::print(const std::string& text) {
  check_length(out_.size() + text.size());
  out_ += text;
}

Evaluator::Flow Evaluator::run(const Block& block) {
  for (const Statement& statement : block) {
    const Flow flow = at_line(statement.line, [&] { return run(statement); });
    if (flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Evaluator::Flow Evaluator::run(const Statement& statement) {
  count_step();
  switch (statement.kind) {
    case Statement::Kind::kText:
      print(statement.text);
      return Flow::kOn;
    case Statement::Kind::kPrint:
      print(evaluate(*statement.expressions[0]).printed());
      return Flow::kOn;
    case Statement::Kind::kIf:
      return run_if(statement);
    case Statement::Kind::kFor:
      return run_for(statement);
    case Statement::Kind::kSet:
      run_set(statement);
      return Flow::kOn;
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kOn;
}

Evaluator::Flow Evaluator::run_if(const Statement& statement) {
  for (std::size_t i = 0; i < statement.expressions.size(); ++i) {
    if (evaluate(*statement.expressions[i]).truth()) return run(statement.blocks[i]);
  }
  const bool has_else = statement.blocks.size() > statement.expressions.size();
  return has_else ? run(statement.blocks.back()) : Flow::kOn;
}

Evaluator::Flow Evaluator::run_for(const Statement& statement) {
  List items = elements(evaluate(*statement.expressions[0]));
  scopes_.emplace_back();
  if (statement.expressions.size() > 1) {
    List kept;
    for (const Value& item : items) {
      set_targets(statement.targets, item);
      if (evaluate(*statement.expressions[1]).truth()) kept.push_back(item);
    }
    items = std::move(kept);
  }
  Flow flow = Flow::kOn;
  for (std::size_t i = 0; i < items.size() && flow != Flow::kBreak; ++i) {
    count_step();
    scopes_.back().clear();  // what a turn sets is not seen by the next one
    set_targets(statement.targets, items[i]);
    scopes_.back().insert_or_assign("loop", loop_value(i, items));
    flow = run(statement.blocks[0]);
  }
  scopes_.pop_back();
  return items.empty() && statement.blocks.size() > 1 ? run(statement.blocks[1]) : Flow::kOn;
}

void Evaluator::set_targets(const std::vector<std::string>& targets, const Value& value) {
  if (targets.size() == 1) {
    scopes_.back().insert_or_assign(targets[0], value);
    return;
  }
  const List parts = elements(value);
  if (parts.size() != targets.size()) throw FileError(concat(parts.size(), " values for ", targets.size(), " names"));
  for (std::size_t i = 0; i < parts.size(); ++i) scopes_.back().insert_or_assign(targets[i], parts[i]);
}

void Evaluator::run_set(const Statement& statement) {
  const Value value = evaluate(*statement.expressions[0]);
  if (statement.targets.size() == 1) {
    scopes_.back().insert_or_assign(statement.targets[0], value);
    return;
  }
  Object* object = name(statement.targets[0]).mutable_object();
  if (object == nullptr || !object->is_namespace)
    throw FileError(concat(statement.targets[0], " is no namespace; its members cannot be set"));
  object->set(statement.targets[1], value);
}

Value Evaluator::name(const std::string& name) const {
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    const auto found = scope->find(name);
    if (found != scope->end()) return found->second;
  }
  return Undefined{name};
}

Value Evaluator::evaluate(const Expression& e) {
  count_step();
  return at_line(e.line, [&] { return evaluate_kind(e); });
}

Value Evaluator::evaluate_kind(const Expression& e) {
  switch (e.kind) {
    case Kind::kLiteral:
      return e.literal;
    case Kind::kName:
      return name(e.text);
    case Kind::kAttribute:
      return attribute(evaluate(*e.parts[0]), e.text);
    case Kind::kItem:
      return item(evaluate(*e.parts[0]), evaluate(*e.parts[1]));
    case Kind::kSlice:
      return slice(e);
    case Kind::kCall:
      return call(e);
    case Kind::kFilter:
      return apply_filter(e.text, evaluate(*e.parts[0]), arguments(e));
    case Kind::kTest:
      return apply_test(e.text, evaluate(*e.parts[0]), arguments(e));
    case Kind::kNot:
      return !evaluate(*e.parts[0]).truth();
    case Kind::kAnd: {
      const Value left = evaluate(*e.parts[0]);
      return left.truth() ? evaluate(*e.parts[1]) : left;
    }
    case Kind::kOr: {
      const Value left = evaluate(*e.parts[0]);
      return left.truth() ? left : evaluate(*e.parts[1]);
    }
    case Kind::kNegative:
    case Kind::kArithmetic:
      return arithmetic(e);
    case Kind::kComparison:
      return compare(e);
    case Kind::kConditional:
      if (evaluate(*e.parts[0]).truth()) return evaluate(*e.parts[1]);
      return e.parts[2] ? evaluate(*e.parts[2]) : Value(Undefined{"the else of an if without one"});
    case Kind::kList: {
      List list;
      for (const ExpressionPointer& part : e.parts) list.push_back(evaluate(*part));
      return list;
    }
    case Kind::kObject: {
      Object object;
      for (std::size_t i = 0; i < e.parts.size(); i += 2) {
        const Value key = evaluate(*e.parts[i]);
        if (key.text() == nullptr) throw Unsupported("names of an object that are no texts are not supported");
        object.set(*key.text(), evaluate(*e.parts[i + 1]));
      }
      return object;
    }
  }
  return {};
}

Value Evaluator::attribute(const Value& value, const std::string& name) const {
  if (value.undefined())
    throw FileError(
        concat(quoted(value.get<Undefined>()->name), " is undefined; ", quoted(name), " of it is asked for"));
  const Value* found = value.object() == nullptr ? nullptr : value.object()->find(name);
  return found == nullptr ? Value(Undefined{name}) : *found;
}

Value Evaluator::item(const Value& value, const Value& index) const {
  if (index.text() != nullptr) return attribute(value, *index.text());
  const auto* place = index.get<std::int64_t>();
  if (place == nullptr) throw FileError(concat("an index is ", index.kind(), "; a whole number or a text is right"));
  if (value.undefined()) return attribute(value, std::to_string(*place));
  if (value.object() != nullptr) return Undefined{std::to_string(*place)};
  const List made = value.list() == nullptr ? elements(value) : List();
  const List& list = value.list() == nullptr ? made : *value.list();
  const auto count = static_cast<std::int64_t>(list.size());
  const std::int64_t at = *place < 0 && *place >= -count ? *place + count : *place;
  if (at < 0 || at >= count) return Undefined{concat("element ", *place)};
  return list[static_cast<std::size_t>(at)];
}

Arguments Evaluator::arguments(const Expression& e) {
  Arguments all;
  for (std::size_t i = 1; i < e.parts.size(); ++i) all.values.push_back(evaluate(*e.parts[i]));
  for (const auto& [name, part] : e.named) all.named.emplace_back(name, evaluate(*part));
  return all;
}

Value Evaluator::call(const Expression& e) {
  const Expression& callee = *e.parts[0];
  if (callee.kind == Kind::kName) return call_function(callee.text, arguments(e));
  if (callee.kind != Kind::kAttribute) throw Unsupported("calls of something that has no name are not supported");
  const Value object = evaluate(*callee.parts[0]);
  return call_method(callee.text, object, arguments(e));
}

}  // namespace hsattn::lm::jinja
