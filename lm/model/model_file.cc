#include "lm/model/model_file.h"

#include <filesystem>

#include "lm/data/files.h"
#include "lm/model/safetensors.h"
#include "lm/options/json_options.h"

namespace hsattn::lm {
namespace {

namespace fs = std::filesystem;
constexpr const char* kConfigKey = "hsattn_config";

void set_weights(const SafeTensors& content, const std::string& path, const Transformer& model) {
  for (const auto& [name, tensor] : model.parameters()) {
    copy_tensor(content, name, path, tensor);
    if (!at::isfinite(tensor).all().item<bool>()) {
      throw FileError(concat(path, ": tensor ", name, " holds values that are not finite; the model is broken"));
    }
  }
}

}  // namespace

void save_model(const std::string& path, const Transformer& model) {
  ModelConfig config = model.config();
  write_safetensors(path, {model.parameters(), {{"format", "pt"}, {kConfigKey, to_json(config).dump()}}});
}

void load_weights(const std::string& path, Transformer& model) { set_weights(read_safetensors(path), path, model); }

std::unique_ptr<Transformer> load_model(const std::string& path) {
  const std::string file = model_file_of(path);
  const SafeTensors content = read_safetensors(file);
  const auto found = content.metadata.find(kConfigKey);
  if (found == content.metadata.end())
    throw FileError(concat(file, ": no ", kConfigKey, " in its metadata; not a model of hsattn"));
  const auto json = nlohmann::ordered_json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  ModelConfig config;
  from_json(json, config, file);
  try {
    check_model_config(config);
  } catch (const InvalidArgument& error) {
    throw FileError(concat(file, ": ", error.what()));
  }
  auto model = std::make_unique<Transformer>(config, 0);
  set_weights(content, file, *model);
  return model;
}

std::string model_file_of(const std::string& path) {
  if (fs::is_regular_file(path)) return path;
  if (fs::is_regular_file(path + "/model.safetensors")) return path + "/model.safetensors";
  std::string newest;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path + "/checkpoints", ignored)) {
    const std::string name = entry.path().string();
    if (fs::is_regular_file(name + "/model.safetensors")) newest = std::max(newest, name);
  }
  if (newest.empty())
    throw FileError(path + ": no model there; a .safetensors file, a checkpoint or a run folder is right");
  return newest + "/model.safetensors";
}

}  // namespace hsattn::lm
