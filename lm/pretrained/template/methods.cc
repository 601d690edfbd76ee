#include <algorithm>
#include <cctype>
#include <ctime>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"
#include "lm/pretrained/template/functions.h"
#include "lm/tokenizer/unicode.h"

namespace hsattn::lm::jinja {
namespace {

constexpr std::int64_t kLongestRange = 100'000;

std::string argument_text(const Arguments& arguments, std::size_t place, const char* name, const std::string& method) {
  const Value value = arguments.get(place, name, Undefined{});
  if (value.text() == nullptr) throw FileError(concat(method, ": an argument is ", value.kind(), "; a text is right"));
  return *value.text();
}

std::vector<std::string> characters(const std::string& text) {
  std::vector<std::string> all;
  if (invalid_utf8(text) != std::string::npos) throw FileError("a text is no UTF-8");
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = decode_code(text.data() + at).bytes;
    all.push_back(text.substr(at, bytes));
    at += bytes;
  }
  return all;
}

// Of the characters in `set`, or, if it is none, of white space.
std::string strip(const std::string& text, const Value& set, bool left, bool right) {
  const std::vector<std::string> all = characters(text);
  const std::vector<std::string> listed = set.text() == nullptr ? std::vector<std::string>() : characters(*set.text());
  const auto goes = [&](const std::string& c) {
    if (set.text() == nullptr) return (code_flags()[decode_code(c.data()).value] & kSpace) != 0;
    return std::find(listed.begin(), listed.end(), c) != listed.end();
  };
  std::size_t begin = 0, end = all.size();
  while (left && begin < end && goes(all[begin])) ++begin;
  while (right && end > begin && goes(all[end - 1])) --end;
  std::string rest;
  for (std::size_t i = begin; i < end; ++i) rest += all[i];
  return rest;
}

List split(const std::string& text, const Arguments& arguments) {
  List parts;
  const Value limit = arguments.get(1, "maxsplit", std::int64_t{-1});
  const std::int64_t most = limit.get<std::int64_t>() == nullptr ? -1 : *limit.get<std::int64_t>();
  if (arguments.get(0, "sep").none()) {
    if (most >= 0) throw Unsupported("split at white space with a limit is not supported");
    constexpr const char* kSpaces = " \t\n\r\v\f";
    for (std::size_t at = text.find_first_not_of(kSpaces); at != std::string::npos;) {
      const std::size_t end = std::min(text.find_first_of(kSpaces, at), text.size());
      parts.emplace_back(text.substr(at, end - at));
      at = text.find_first_not_of(kSpaces, end);
    }
    return parts;
  }
  const std::string separator = argument_text(arguments, 0, "sep", "split");
  if (separator.empty()) throw FileError("split: the separator is empty");
  std::size_t begin = 0;
  for (std::size_t at; (at = text.find(separator, begin)) != std::string::npos &&
                       (most < 0 || static_cast<std::int64_t>(parts.size()) < most);
       begin = at + separator.size()) {
    parts.emplace_back(text.substr(begin, at - begin));
  }
  parts.emplace_back(text.substr(begin));
  return parts;
}

std::string replace(const std::string& text, const Arguments& arguments) {
  const std::string old = argument_text(arguments, 0, "old", "replace"),
                    with = argument_text(arguments, 1, "new", "replace");
  if (old.empty()) throw FileError("replace: what is to be replaced is empty");
  std::string result;
  std::size_t begin = 0;
  for (std::size_t at; (at = text.find(old, begin)) != std::string::npos; begin = at + old.size()) {
    result.append(text, begin, at - begin).append(with);
    check_length(result.size());
  }
  return result.append(text, begin);
}

// ASCII letters alone; others are refused rather than left.
std::string with_case(const std::string& text, const std::string& method) {
  std::string result;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80)
      throw Unsupported(method + " of letters other than those of ASCII is not supported");
    const bool up = method == "upper" || (method == "capitalize" && result.empty());
    result += static_cast<char>(up ? std::toupper(c) : std::tolower(c));
  }
  return result;
}

Value call_text_method(const std::string& name, const std::string& text, const Arguments& arguments) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return strip(text, arguments.get(0, "chars"), name != "rstrip", name != "lstrip");
  }
  if (name == "startswith") return text.starts_with(argument_text(arguments, 0, "prefix", name));
  if (name == "endswith") return text.ends_with(argument_text(arguments, 0, "suffix", name));
  if (name == "split") return split(text, arguments);
  if (name == "replace") return replace(text, arguments);
  if (name == "upper" || name == "lower" || name == "capitalize") return with_case(text, name);
  throw Unsupported(concat("the method ", quoted(name),
                           " of texts is not supported; strip, lstrip, rstrip, startswith, "
                           "endswith, split, replace, upper, lower and capitalize are"));
}

Value call_object_method(const std::string& name, const Object& object, const Arguments& arguments) {
  if (name == "get") {
    const Value* found = object.find(argument_text(arguments, 0, "key", "get"));
    return found == nullptr ? arguments.get(1, "default") : *found;
  }
  List list;
  for (const auto& [key, value] : object.members) {
    if (name == "items") {
      list.emplace_back(List{key, value});
    } else if (name == "keys") {
      list.emplace_back(key);
    } else if (name == "values") {
      list.push_back(value);
    } else {
      throw Unsupported(
          concat("the method ", quoted(name), " of objects is not supported; get, items, keys and values are"));
    }
  }
  return list;
}

Value make_range(const Arguments& arguments) {
  std::int64_t bounds[3] = {0, 0, 1};
  const std::size_t count = arguments.values.size();
  for (std::size_t i = 0; i < count && i < 3; ++i) {
    const auto* number = arguments.values[i].get<std::int64_t>();
    if (number == nullptr) throw FileError("range: whole numbers are right");
    bounds[count == 1 ? 1 : i] = *number;
  }
  if (count < 1 || count > 3 || bounds[2] == 0)
    throw FileError("range: one to three numbers, the third not 0, are right");
  List list;
  for (std::int64_t i = bounds[0]; bounds[2] > 0 ? i < bounds[1] : i > bounds[1];) {
    if (static_cast<std::int64_t>(list.size()) == kLongestRange) throw FileError("range: too long");
    list.emplace_back(i);
    if (__builtin_add_overflow(i, bounds[2], &i)) break;
  }
  return list;
}

std::string one_line(std::string text) {
  std::replace_if(text.begin(), text.end(), [](char c) { return c >= 0 && c < ' '; }, ' ');
  return text;
}

std::string now(const std::string& format) {
  const std::time_t time = std::time(nullptr);
  std::tm parts{};
  localtime_r(&time, &parts);
  std::string text(256, '\0');
  text.resize(std::strftime(text.data(), text.size(), format.c_str(), &parts));
  return text;
}

}  // namespace

Value call_method(const std::string& name, const Value& object, const Arguments& arguments) {
  if (object.text() != nullptr) return call_text_method(name, *object.text(), arguments);
  if (object.object() != nullptr) return call_object_method(name, *object.object(), arguments);
  throw FileError(concat("the method ", quoted(name), " is asked of ", object.kind()));
}

Value call_function(const std::string& name, const Arguments& arguments) {
  if (name == "raise_exception") throw FileError(one_line(argument_text(arguments, 0, "message", name)));
  if (name == "strftime_now") return now(argument_text(arguments, 0, "format", name));
  if (name == "range") return make_range(arguments);
  if (name == "namespace" || name == "dict") {
    Object object{{}, name == "namespace"};
    if (!arguments.values.empty()) throw Unsupported(name + " of values without names is not supported");
    for (const auto& [key, value] : arguments.named) object.set(key, value);
    return object;
  }
  throw Unsupported(concat("the function ", quoted(name),
                           " is not supported; raise_exception, strftime_now, range, namespace and dict are"));
}

List elements(const Value& value) {
  if (value.undefined()) return {};
  if (value.list() != nullptr) return *value.list();
  List all;
  if (value.text() != nullptr) {
    for (std::string& c : characters(*value.text())) all.emplace_back(std::move(c));
  } else if (value.object() != nullptr) {
    for (const auto& [key, member] : value.object()->members) all.emplace_back(key);
  } else {
    throw FileError(concat(value.kind(), " has no elements"));
  }
  return all;
}

bool contains(const Value& all, const Value& item) {
  if (all.text() != nullptr) {
    if (item.text() == nullptr) throw FileError(concat("`in` a text asks for ", item.kind(), "; a text is right"));
    return all.text()->find(*item.text()) != std::string::npos;
  }
  const List made = all.list() == nullptr ? elements(all) : List();
  const List& list = all.list() == nullptr ? made : *all.list();
  return std::find(list.begin(), list.end(), item) != list.end();
}

bool less(const Value& a, const Value& b) {
  if (a.text() != nullptr && b.text() != nullptr) return *a.text() < *b.text();  // UTF-8 sorts as code points do
  const auto number = [](const Value& v) {
    if (const auto* whole = v.get<std::int64_t>()) return static_cast<double>(*whole);
    if (const auto* flag = v.get<bool>()) return *flag ? 1.0 : 0.0;
    if (const auto* real = v.get<double>()) return *real;
    throw FileError(concat("an order is asked of ", v.kind(), "; numbers or texts are right"));
  };
  return number(a) < number(b);
}

}  // namespace hsattn::lm::jinja
