// Filters, tests, methods and functions of templates: the part of Jinja's and Python's that chat templates use.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lm/pretrained/template/value.h"

namespace hsattn::lm::jinja {

struct Arguments {
  std::vector<Value> values;
  std::vector<std::pair<std::string, Value>> named;

  /// The argument at a place, or of that name; `otherwise` if it is not given.
  Value get(std::size_t place, const char* name, Value otherwise = {}) const;
};

/// Each throws Unsupported, naming it, for what is not supported; FileError for arguments that cannot be.
Value apply_filter(const std::string& name, const Value& input, const Arguments& arguments);
bool apply_test(const std::string& name, const Value& input, const Arguments& arguments);
Value call_method(const std::string& name, const Value& object, const Arguments& arguments);
Value call_function(const std::string& name, const Arguments& arguments);

/// Code points of a text, the elements of a list, the names of an object; what a loop goes over.
List elements(const Value& value);
/// As Python's `in`.
bool contains(const Value& all, const Value& item);
/// a < b of numbers or texts.
bool less(const Value& a, const Value& b);

}  // namespace hsattn::lm::jinja
