// JSON of files that others wrote: one meaning, a depth that was asked for, or an error of one line.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace hsattn::lm {

/// Parses `text`. Throws FileError, which begins with `what`: not JSON; objects in each other more than `depth` deep;
/// two members of an object with the same name, of which every reader takes another one.
nlohmann::ordered_json parse_untrusted_json(std::string_view text, const std::string& what, int depth);

/// The name as JSON writes it, so that no byte of a file reaches a terminal as it is; cut after 80 characters.
std::string quoted(const std::string& name);

/// Reads fields of an object of a file. Errors (FileError) name file and field.
class FieldReader {
 public:
  /// Both must outlive the reader.
  FieldReader(const nlohmann::ordered_json& object, const std::string& what);

  /// True if it is there and not null.
  bool has(const char* name) const { return !value(name).is_null(); }
  /// null if it is missing.
  const nlohmann::ordered_json& value(const char* name) const;
  std::int64_t integer(const char* name, std::int64_t least, std::int64_t most) const;
  double number(const char* name, double least, double most) const;
  bool flag(const char* name, bool otherwise) const;
  std::string text(const char* name) const;

 private:
  const nlohmann::ordered_json& object_;
  const std::string& what_;
};

}  // namespace hsattn::lm
