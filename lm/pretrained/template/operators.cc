// Arithmetic, comparisons and slices of templates.
#include <algorithm>
#include <cmath>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"
#include "lm/pretrained/template/evaluator.h"

namespace hsattn::lm::jinja {
namespace {

std::int64_t whole_arithmetic(const std::string& sign, std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  bool overflow = false;
  if (sign == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (sign == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (sign == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else {  // // and %, which round down
    if (b == 0) throw FileError("a division by zero");
    overflow = b == -1 && __builtin_sub_overflow(std::int64_t{0}, a, &result);
    if (!overflow) {
      const std::int64_t remainder = b == -1 ? 0 : a % b;
      const bool down = remainder != 0 && (remainder < 0) != (b < 0);
      result = sign == "%" ? remainder + (down ? b : 0) : b == -1 ? result : a / b - (down ? 1 : 0);
    }
  }
  if (overflow) throw FileError("a number is too large");
  return result;
}

double real_arithmetic(const std::string& sign, double a, double b) {
  if (sign == "+") return a + b;
  if (sign == "-") return a - b;
  if (sign == "*") return a * b;
  if (b == 0) throw FileError("a division by zero");
  if (sign == "/") return a / b;
  return sign == "//" ? std::floor(a / b) : a - std::floor(a / b) * b;
}

double real(const Value& value) {
  if (const auto* whole = value.get<std::int64_t>()) return static_cast<double>(*whole);
  if (const auto* flag = value.get<bool>()) return *flag ? 1 : 0;
  return *value.get<double>();
}

// Where a slice begins or ends, as Python counts it, brought into the list.
std::int64_t bound(const Value& value, std::int64_t otherwise, std::int64_t count, bool backwards) {
  if (value.none()) return otherwise;
  const auto* given = value.get<std::int64_t>();
  if (given == nullptr) throw FileError(concat("a bound of a slice is ", value.kind(), "; a whole number is right"));
  const std::int64_t at = *given < 0 ? std::max(*given, -count - 1) + count : *given;
  return std::clamp<std::int64_t>(at, backwards ? -1 : 0, backwards ? count - 1 : count);
}

}  // namespace

Value Evaluator::arithmetic(const Expression& e) {
  const Value a = evaluate(*e.parts[0]);
  if (e.kind == Kind::kNegative) {
    if (!a.number()) throw FileError(concat("- before ", a.kind(), "; a number is right"));
    if (a.get<double>() != nullptr) return -*a.get<double>();
    return whole_arithmetic("-", 0, static_cast<std::int64_t>(real(a)));
  }
  const Value b = evaluate(*e.parts[1]);
  if (e.text == "~" || (e.text == "+" && a.text() != nullptr && b.text() != nullptr)) {
    std::string text = a.printed() + b.printed();
    check_length(made_ += text.size());
    return text;
  }
  if (e.text == "+" && a.list() != nullptr && b.list() != nullptr) {
    List list = *a.list();
    list.insert(list.end(), b.list()->begin(), b.list()->end());
    check_length(made_ += list.size() * sizeof(Value));
    return list;
  }
  if (!a.number() || !b.number()) {
    const auto name = [](const Value& v) {
      return v.undefined() ? quoted(v.get<Undefined>()->name) + ", which is undefined," : v.kind();
    };
    throw FileError(concat(e.text, " of ", name(a), " and ", name(b), " is not possible"));
  }
  const bool reals = a.get<double>() != nullptr || b.get<double>() != nullptr || e.text == "/";
  if (reals) return real_arithmetic(e.text, real(a), real(b));
  const auto whole = [](const Value& v) {
    return v.get<bool>() != nullptr ? std::int64_t{v.truth()} : *v.get<std::int64_t>();
  };
  return whole_arithmetic(e.text, whole(a), whole(b));
}

bool Evaluator::compare(const Expression& e) {
  Value left = evaluate(*e.parts[0]);
  for (std::size_t i = 0; i < e.operators.size(); ++i) {
    const std::string& sign = e.operators[i];
    Value right = evaluate(*e.parts[i + 1]);
    const bool holds = sign == "=="       ? left == right
                       : sign == "!="     ? !(left == right)
                       : sign == "in"     ? contains(right, left)
                       : sign == "not in" ? !contains(right, left)
                       : sign == "<"      ? less(left, right)
                       : sign == ">"      ? less(right, left)
                       : sign == "<="     ? !less(right, left)
                                          : !less(left, right);
    if (!holds) return false;
    left = std::move(right);
  }
  return true;
}

Value Evaluator::slice(const Expression& e) {
  const Value value = evaluate(*e.parts[0]);
  const auto part = [&](std::size_t i) { return e.parts[i] ? evaluate(*e.parts[i]) : Value(); };
  if (value.text() == nullptr && value.list() == nullptr)
    throw FileError(concat("a slice of ", value.kind(), "; a text or a list is right"));
  const List list = elements(value);
  const Value given_step = part(3);
  const std::int64_t step = given_step.none()                           ? 1
                            : given_step.get<std::int64_t>() != nullptr ? *given_step.get<std::int64_t>()
                                                                        : 0;
  if (step != 1 && step != -1) throw Unsupported("slices with a step other than 1 and -1 are not supported");
  const bool backwards = step < 0;
  const auto count = static_cast<std::int64_t>(list.size());
  const std::int64_t begin = bound(part(1), backwards ? count - 1 : 0, count, backwards);
  const std::int64_t end = bound(part(2), backwards ? -1 : count, count, backwards);
  List kept;
  for (std::int64_t i = begin; backwards ? i > end : i < end; i += step)
    kept.push_back(list[static_cast<std::size_t>(i)]);
  if (value.list() != nullptr) return kept;
  std::string text;
  for (const Value& c : kept) text += *c.text();
  return text;
}

}  // namespace hsattn::lm::jinja
