#include "lm/pretrained/measurements.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "lm/data/files.h"

namespace hsattn::lm {

Measurements::Measurements(std::string path, std::string fingerprint)
    : path_(std::move(path)), fingerprint_(std::move(fingerprint)) {
  if (!std::filesystem::is_regular_file(path_)) return;
  try {
    const auto file = nlohmann::json::parse(read_file(path_));
    if (file.at("of") == fingerprint_) file.at("values").get_to(values_);
  } catch (const nlohmann::json::exception&) {
    values_.clear();  // damaged: everything is measured again
  }
}

const std::vector<double>* Measurements::find(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? nullptr : &found->second;
}

void Measurements::add(const std::string& name, const std::vector<double>& values) {
  values_[name] = values;
  write_file(path_, nlohmann::json({{"of", fingerprint_}, {"values", values_}}).dump());
}

void Measurements::remove() const { std::filesystem::remove(path_); }

}  // namespace hsattn::lm
