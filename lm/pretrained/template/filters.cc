#include <algorithm>
#include <functional>
#include <map>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"
#include "lm/pretrained/template/functions.h"

namespace hsattn::lm::jinja {
namespace {

using Filter = std::function<Value(const Value&, const Arguments&)>;
using Test = std::function<bool(const Value&, const Arguments&)>;

const std::string& text_of(const Value& value, const char* who) {
  if (value.text() == nullptr) throw FileError(concat(who, " is of a text, not of ", value.kind()));
  return *value.text();
}

Value length(const Value& value, const Arguments&) {
  if (value.object() != nullptr) return static_cast<std::int64_t>(value.object()->members.size());
  return static_cast<std::int64_t>(elements(value).size());
}

Value to_json(const Value& value, const Arguments& arguments) {
  const Value indent = arguments.get(0, "indent");
  const auto* spaces = indent.get<std::int64_t>();
  if (!indent.none() && (spaces == nullptr || *spaces < 0 || *spaces > 16))
    throw FileError("tojson: an indent of 0 to 16 is right");
  return value.to_json(spaces == nullptr ? -1 : static_cast<int>(*spaces));
}

Value join(const Value& value, const Arguments& arguments) {
  const Value separator = arguments.get(0, "d", "");
  std::string all;
  bool first = true;
  for (const Value& item : elements(value)) {
    if (!first) all += separator.printed();
    first = false;
    all += item.printed();
    check_length(all.size());
  }
  return all;
}

Value pick(const Value& value, bool last) {
  const List list = elements(value);
  if (list.empty()) return Undefined{last ? "the last of nothing" : "the first of nothing"};
  return last ? list.back() : list.front();
}

// selectattr("role", "equalto", "user")
Value select(const Value& value, const Arguments& arguments, bool keep) {
  const std::string name = text_of(arguments.get(0, "attribute", Undefined{}), "selectattr");
  const Value test = arguments.get(1, "test");
  const Arguments rest{
      {arguments.values.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(2, arguments.values.size())),
       arguments.values.end()},
      {}};
  List kept;
  for (const Value& item : elements(value)) {
    const Value* found = item.object() == nullptr ? nullptr : item.object()->find(name);
    const Value member = found == nullptr ? Value(Undefined{name}) : *found;
    const bool holds = test.none() ? member.truth() : apply_test(text_of(test, "the test of selectattr"), member, rest);
    if (holds == keep) kept.push_back(item);
  }
  return kept;
}

Value map(const Value& value, const Arguments& arguments) {
  const Value attribute = arguments.get(1, "attribute");
  List mapped;
  for (const Value& item : elements(value)) {
    if (attribute.none()) {
      mapped.push_back(apply_filter(text_of(arguments.get(0, "filter", Undefined{}), "map"), item, {}));
      continue;
    }
    const Value* found = item.object() == nullptr ? nullptr : item.object()->find(text_of(attribute, "map"));
    mapped.push_back(found == nullptr ? Value(Undefined{*attribute.text()}) : *found);
  }
  return mapped;
}

Value default_value(const Value& value, const Arguments& arguments) {
  const bool for_false = arguments.get(1, "boolean", false).truth();
  return value.undefined() || (for_false && !value.truth()) ? arguments.get(0, "default_value", "") : value;
}

Value items(const Value& value, const Arguments&) {
  if (value.undefined()) return List{};
  return call_method("items", value, {});
}

Filter method(const char* name) {
  return
      [name](const Value& value, const Arguments& arguments) { return call_method(name, value.printed(), arguments); };
}

const std::map<std::string, Filter>& filters() {
  static const std::map<std::string, Filter> all = {
      {"length", length},
      {"count", length},
      {"tojson", to_json},
      {"join", join},
      {"trim", method("strip")},
      {"upper", method("upper")},
      {"lower", method("lower")},
      {"capitalize", method("capitalize")},
      {"replace", method("replace")},
      {"map", map},
      {"default", default_value},
      {"d", default_value},
      {"items", items},
      {"list", [](const Value& v, const Arguments&) { return Value(elements(v)); }},
      {"first", [](const Value& v, const Arguments&) { return pick(v, false); }},
      {"last", [](const Value& v, const Arguments&) { return pick(v, true); }},
      {"string", [](const Value& v, const Arguments&) { return Value(v.printed()); }},
      {"safe", [](const Value& v, const Arguments&) { return v; }},
      {"selectattr", [](const Value& v, const Arguments& a) { return select(v, a, true); }},
      {"rejectattr", [](const Value& v, const Arguments& a) { return select(v, a, false); }},
      {"reverse",
       [](const Value& v, const Arguments&) {
         List list = elements(v);
         std::reverse(list.begin(), list.end());
         return Value(list);
       }},
  };
  return all;
}

bool whole(const Value& value) { return value.get<std::int64_t>() != nullptr; }

// Of whole numbers: value modulo divisor is remainder, as Python's % has it.
bool leaves(const Value& value, std::int64_t divisor, std::int64_t remainder) {
  if (!whole(value) || divisor == 0) throw FileError("a test of whole numbers is asked of something else");
  return ((*value.get<std::int64_t>() % divisor) + divisor) % divisor == remainder;
}

bool divisible(const Value& value, const Arguments& arguments) {
  const Value divisor = arguments.get(0, "num", Undefined{});
  if (!whole(divisor) || *divisor.get<std::int64_t>() <= 0)
    throw FileError("divisibleby: a whole number above 0 is right");
  return leaves(value, *divisor.get<std::int64_t>(), 0);
}

bool equal(const Value& value, const Arguments& arguments) { return value == arguments.get(0, "other", Undefined{}); }

const std::map<std::string, Test>& tests() {
  static const std::map<std::string, Test> all = {
      {"defined", [](const Value& v, const Arguments&) { return !v.undefined(); }},
      {"undefined", [](const Value& v, const Arguments&) { return v.undefined(); }},
      {"none", [](const Value& v, const Arguments&) { return v.none(); }},
      {"string", [](const Value& v, const Arguments&) { return v.text() != nullptr; }},
      {"mapping", [](const Value& v, const Arguments&) { return v.object() != nullptr; }},
      {"sequence",
       [](const Value& v, const Arguments&) {
         return v.text() != nullptr || v.list() != nullptr || v.object() != nullptr;
       }},
      {"iterable",
       [](const Value& v, const Arguments&) {
         return v.undefined() || v.text() != nullptr || v.list() != nullptr || v.object() != nullptr;
       }},
      {"number", [](const Value& v, const Arguments&) { return v.number(); }},
      {"integer", [](const Value& v, const Arguments&) { return whole(v); }},
      {"float", [](const Value& v, const Arguments&) { return v.get<double>() != nullptr; }},
      {"boolean", [](const Value& v, const Arguments&) { return v.get<bool>() != nullptr; }},
      {"true", [](const Value& v, const Arguments&) { return v.get<bool>() != nullptr && v.truth(); }},
      {"false", [](const Value& v, const Arguments&) { return v.get<bool>() != nullptr && !v.truth(); }},
      {"odd", [](const Value& v, const Arguments&) { return leaves(v, 2, 1); }},
      {"even", [](const Value& v, const Arguments&) { return leaves(v, 2, 0); }},
      {"divisibleby", divisible},
      {"equalto", equal},
      {"eq", equal},
      {"in", [](const Value& v, const Arguments& a) { return contains(a.get(0, "seq", Undefined{}), v); }},
  };
  return all;
}

template <class Map>
const auto& find(const Map& all, const char* kind, const std::string& name) {
  const auto found = all.find(name);
  if (found != all.end()) return found->second;
  std::string names;
  for (const auto& [known, function] : all) names += (names.empty() ? "" : ", ") + known;
  throw Unsupported(concat("the ", kind, " ", quoted(name), " is not supported; ", names, " are"));
}

}  // namespace

Value Arguments::get(std::size_t place, const char* name, Value otherwise) const {
  if (place < values.size()) return values[place];
  for (const auto& [key, value] : named) {
    if (key == name) return value;
  }
  return otherwise;
}

Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments) {
  return find(filters(), "filter", name)(input, arguments);
}

bool apply_test(const std::string& name, const Value& input, const Arguments& arguments) {
  return find(tests(), "test", name)(input, arguments);
}

}  // namespace hsattn::lm::jinja
