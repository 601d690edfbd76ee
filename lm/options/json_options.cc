#include "lm/options/json_options.h"

#include <set>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"

namespace hsattn::lm {
namespace {

class Writer : public OptionVisitor {
 public:
  void operator()(const char* name, std::string& value, const char*) override { object[name] = value; }
  void operator()(const char* name, std::vector<std::string>& value, const char*) override { object[name] = value; }
  void operator()(const char* name, std::vector<Index>& value, const char*) override { object[name] = value; }
  void operator()(const char* name, Index& value, const char*) override { object[name] = value; }
  void operator()(const char* name, double& value, const char*) override { object[name] = value; }
  void operator()(const char* name, bool& value, const char*) override { object[name] = value; }

  nlohmann::ordered_json object = nlohmann::ordered_json::object();
};

class Reader : public OptionVisitor {
 public:
  Reader(const nlohmann::ordered_json& object, const std::string& what) : object_(object), what_(what) {}

  void operator()(const char* name, std::string& value, const char*) override { read(name, value); }
  void operator()(const char* name, std::vector<std::string>& value, const char*) override { read(name, value); }
  void operator()(const char* name, std::vector<Index>& value, const char*) override { read(name, value); }
  void operator()(const char* name, Index& value, const char*) override { read(name, value); }
  void operator()(const char* name, double& value, const char*) override { read(name, value); }
  void operator()(const char* name, bool& value, const char*) override { read(name, value); }

  void check_all_known() const {
    for (const auto& [name, value] : object_.items()) {
      if (!known_.contains(name)) throw FileError(what_ + ": unknown option " + quoted(name));
    }
  }

 private:
  template <class T>
  void read(const char* name, T& value) {
    known_.insert(name);
    if (!object_.contains(name)) return;
    try {
      value = object_.at(name).get<T>();
    } catch (const nlohmann::json::exception&) {
      throw FileError(concat(what_, ": option \"", name, "\" has the wrong type: ", object_.at(name).dump()));
    }
  }

  const nlohmann::ordered_json& object_;
  const std::string& what_;
  std::set<std::string> known_;
};

}  // namespace

nlohmann::ordered_json to_json(Options& options) {
  Writer writer;
  options.visit(writer);
  return writer.object;
}

void from_json(const nlohmann::ordered_json& object, Options& options, const std::string& what) {
  if (!object.is_object()) throw FileError(what + ": not a JSON object");
  Reader reader(object, what);
  options.visit(reader);
  reader.check_all_known();
}

nlohmann::ordered_json read_json(const std::string& path) {
  auto value = nlohmann::ordered_json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) throw FileError(path + ": not JSON");
  return value;
}

}  // namespace hsattn::lm
