#include "lm/pretrained/template/value.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lm/data/files.h"

namespace hsattn::lm::jinja {
namespace {

double as_double(const Value& value) {
  if (const auto* flag = value.get<bool>()) return *flag ? 1 : 0;
  if (const auto* whole = value.get<std::int64_t>()) return static_cast<double>(*whole);
  return *value.get<double>();
}

// The shortest text that reads back as the number, with a point: 1 is 1.0.
std::string text_of(double number) {
  char digits[32];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, number);
  std::string text(digits, end);
  if (std::isfinite(number) && text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

// Separator and members' place of JSON that is broken into lines, or on one.
void new_line(std::string& out, int indent, int depth) {
  if (indent >= 0) out.append(1, '\n').append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(depth), ' ');
}

// One more than that of a value in a list or an object, if it may be there.
int depth_around(const Value& value) {
  if (value.object() != nullptr && value.object()->is_namespace) {
    throw Unsupported("a namespace in a list or an object is not supported");
  }
  if (value.depth() >= kDeepest) throw FileError(concat("lists and objects in each other, more than ", kDeepest));
  return value.depth() + 1;
}

}  // namespace

void check_length(std::size_t bytes) {
  if (bytes > kMostBytes) throw FileError("the template makes too long a text");
}

const Value* Object::find(const std::string& name) const {
  for (const auto& [key, value] : members) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Object::set(const std::string& name, Value value) {
  depth_around(value);
  for (auto& [key, old] : members) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  members.emplace_back(name, std::move(value));
}

Value::Value(List list) {
  depth_ = 1;
  for (const Value& value : list) depth_ = std::max(depth_, depth_around(value));
  content_ = std::make_shared<const List>(std::move(list));
}

Value::Value(Object object) {
  depth_ = object.is_namespace ? kDeepest : 1;  // what will be set in a namespace is not known yet
  for (const auto& [name, value] : object.members) depth_ = std::max(depth_, depth_around(value));
  content_ = std::make_shared<Object>(std::move(object));
}

const List* Value::list() const {
  const auto* found = get<std::shared_ptr<const List>>();
  return found == nullptr ? nullptr : found->get();
}

Object* Value::mutable_object() const {
  const auto* found = get<std::shared_ptr<Object>>();
  return found == nullptr ? nullptr : found->get();
}

const Object* Value::object() const { return mutable_object(); }

bool Value::truth() const {
  if (undefined() || none()) return false;
  if (number()) return as_double(*this) != 0;
  if (text() != nullptr) return !text()->empty();
  return list() != nullptr ? !list()->empty() : !object()->members.empty();
}

bool Value::operator==(const Value& other) const {
  if (number() && other.number()) return as_double(*this) == as_double(other);
  if (content_.index() != other.content_.index()) return false;
  if (text() != nullptr) return *text() == *other.text();
  if (list() == nullptr && object() == nullptr) return true;  // both undefined or None
  const bool empty = !truth(), other_empty = !other.truth();
  if (!empty && !other_empty) throw Unsupported(concat("comparing ", kind(), " is not supported"));
  return empty && other_empty;
}

std::string Value::kind() const {
  static constexpr const char* kKinds[] = {"undefined", "none",   "true or false", "a whole number",
                                           "a number",  "a text", "a list",        "an object"};
  return kKinds[content_.index()];
}

std::string Value::printed() const {
  if (undefined()) return {};
  if (none()) return "None";
  if (const auto* flag = get<bool>()) return *flag ? "True" : "False";
  if (const auto* whole = get<std::int64_t>()) return std::to_string(*whole);
  if (const auto* number = get<double>()) return text_of(*number);
  if (text() != nullptr) return *text();
  throw Unsupported(concat("printing ", kind(), " is not supported; `tojson` is"));
}

std::string Value::to_json(int indent) const {
  std::string out;
  append_json(out, indent, 0);
  return out;
}

void Value::append_json(std::string& out, int indent, int depth) const {
  if (undefined()) throw FileError("tojson: undefined is no JSON");
  check_length(out.size());
  const char* separator = indent >= 0 ? "," : ", ";
  const auto quote = [](const std::string& text) {
    return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  if (none()) {
    out += "null";
  } else if (const auto* flag = get<bool>()) {
    out += *flag ? "true" : "false";
  } else if (text() != nullptr) {
    out += quote(*text());
  } else if (list() != nullptr) {
    out += '[';
    for (std::size_t i = 0; i < list()->size(); ++i) {
      if (i > 0) out += separator;
      new_line(out, indent, depth + 1);
      (*list())[i].append_json(out, indent, depth + 1);
    }
    if (!list()->empty()) new_line(out, indent, depth);
    out += ']';
  } else if (object() != nullptr) {
    out += '{';
    bool first = true;
    for (const auto& [name, value] : object()->members) {
      if (!first) out += separator;
      first = false;
      new_line(out, indent, depth + 1);
      out.append(quote(name)).append(": ");
      value.append_json(out, indent, depth + 1);
    }
    if (!first) new_line(out, indent, depth);
    out += '}';
  } else {
    out += printed();
  }
}

}  // namespace hsattn::lm::jinja
