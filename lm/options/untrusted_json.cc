#include "lm/options/untrusted_json.h"

#include <set>

#include "lm/data/files.h"

namespace hsattn::lm {
namespace {

using Json = nlohmann::ordered_json;

// Looks on while JSON is parsed. At `depth` an object begins, its keys are seen at depth + 1.
class Watcher {
 public:
  Watcher(const std::string& what, int depth) : what_(what), seen_(static_cast<std::size_t>(depth) + 2) {}

  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    const auto at = static_cast<std::size_t>(depth);
    if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
      if (at + 2 > seen_.size()) throw FileError(concat(what_, ": JSON more than ", seen_.size() - 2, " levels deep"));
      seen_[at + 1].clear();
    } else if (event == Json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!seen_[at].insert(name).second) throw FileError(concat(what_, ": ", quoted(name), " stands there twice"));
    }
    return true;
  }

 private:
  const std::string& what_;
  std::vector<std::set<std::string>> seen_;  // names of the open object of each depth
};

}  // namespace

Json parse_untrusted_json(std::string_view text, const std::string& what, int depth) {
  Watcher watcher(what, depth);
  const auto watch = [&](int at, Json::parse_event_t event, Json& parsed) { return watcher(at, event, parsed); };
  Json value = Json::parse(text, watch, /*allow_exceptions=*/false);
  if (value.is_discarded()) throw FileError(what + ": not JSON");
  return value;
}

std::string quoted(const std::string& name) {
  constexpr std::size_t kLongest = 80;
  const std::string text = Json(name).dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...\"";
}

FieldReader::FieldReader(const Json& object, const std::string& what) : object_(object), what_(what) {
  if (!object.is_object()) throw FileError(what + ": no JSON object");
}

const Json& FieldReader::value(const char* name) const {
  static const Json null;
  const auto found = object_.find(name);
  return found == object_.end() ? null : *found;
}

std::int64_t FieldReader::integer(const char* name, std::int64_t least, std::int64_t most) const {
  const Json& found = value(name);
  // What is larger than int64 is kept as unsigned.
  const bool fits =
      found.is_number_integer() && (!found.is_number_unsigned() || found.get<std::uint64_t>() < 1ull << 63);
  const std::int64_t number = fits ? found.get<std::int64_t>() : 0;
  if (!fits || number < least || number > most) {
    throw FileError(concat(what_, ": ", name, " is ", quoted(found.dump()), "; a whole number of ", least, " to ", most,
                           " is right"));
  }
  return number;
}

double FieldReader::number(const char* name, double least, double most) const {
  const Json& found = value(name);
  const double number = found.is_number() ? found.get<double>() : least - 1;
  if (!(number >= least && number <= most)) {
    throw FileError(
        concat(what_, ": ", name, " is ", quoted(found.dump()), "; a number of ", least, " to ", most, " is right"));
  }
  return number;
}

bool FieldReader::flag(const char* name, bool otherwise) const {
  const Json& found = value(name);
  if (found.is_null()) return otherwise;
  if (!found.is_boolean()) throw FileError(concat(what_, ": ", name, " is neither true nor false"));
  return found.get<bool>();
}

std::string FieldReader::text(const char* name) const {
  const Json& found = value(name);
  if (!found.is_string()) throw FileError(concat(what_, ": ", name, " is no text"));
  return found.get<std::string>();
}

}  // namespace hsattn::lm
