#include "lm/pretrained/weights_index.h"

#include <filesystem>
#include <set>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"

namespace hsattn::lm {

namespace fs = std::filesystem;

std::vector<std::string> parse_weights_index(std::string_view text, const std::string& what) {
  constexpr int kDepth = 8;
  const auto root = parse_untrusted_json(text, what, kDepth);
  const FieldReader fields(root, what);
  const auto& map = fields.value("weight_map");
  if (!map.is_object() || map.empty()) throw FileError(what + ": no \"weight_map\" of tensors to files");
  std::set<std::string> files;
  for (const auto& [tensor, file] : map.items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    const bool plain = !name.empty() && name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
    if (!plain || !name.ends_with(".safetensors")) {
      throw FileError(concat(what, ": the file of ", quoted(tensor), " is ", quoted(file.dump()),
                             "; the name of a .safetensors file beside it is right"));
    }
    files.insert(name);
  }
  return {files.begin(), files.end()};
}

std::vector<std::string> weight_files(const std::string& folder) {
  if (fs::exists(folder + "/model.safetensors")) return {folder + "/model.safetensors"};
  const std::string index = folder + "/model.safetensors.index.json";
  if (!fs::exists(index)) {
    throw FileError(folder +
                    ": neither model.safetensors nor model.safetensors.index.json; other formats are not read");
  }
  std::vector<std::string> paths = parse_weights_index(read_file(index), index);
  for (std::string& name : paths) name = concat(folder, "/", name);
  return paths;
}

}  // namespace hsattn::lm
