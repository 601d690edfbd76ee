#include "lm/model/safetensors.h"

#include <nlohmann/json.hpp>

#include "lm/data/files.h"

namespace hsattn::lm {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kAlignment = 8;  // of the first tensor, by spaces after the header

const char* type_name(const std::string& name, at::ScalarType type) {
  if (type == at::kFloat) return "F32";
  if (type == at::kLong) return "I64";
  throw FileError(concat("cannot save ", name, ": type ", c10::toString(type), "; float32 or int64 is right"));
}

// Where one tensor of a file lies, checked.
struct Entry {
  at::ScalarType type;
  std::vector<int64_t> shape;
  std::size_t begin, bytes;
};

Entry read_entry(const ordered_json& json, std::size_t data_bytes) {
  Entry entry{};
  const auto type = json.at("dtype").get<std::string>();
  if (type != "F32" && type != "I64") throw FileError("type " + type + "; F32 or I64 is right");
  entry.type = type == "F32" ? at::kFloat : at::kLong;
  entry.shape = json.at("shape").get<std::vector<int64_t>>();
  const auto offsets = json.at("data_offsets").get<std::vector<std::size_t>>();
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes)
    throw FileError("offsets outside the file");
  std::size_t bytes = type == "F32" ? 4 : 8;
  for (const int64_t size : entry.shape) {
    if (size < 0 || (size > 0 && bytes > data_bytes / static_cast<std::size_t>(size)))
      throw FileError("impossible shape");
    bytes *= static_cast<std::size_t>(size);
  }
  if (bytes != offsets[1] - offsets[0]) throw FileError("shape and offsets disagree");
  entry.begin = offsets[0];
  entry.bytes = bytes;
  return entry;
}

std::size_t header_length(const std::string& file) {
  std::uint64_t length = 0;
  if (file.size() < 8) return 0;
  std::memcpy(&length, file.data(), 8);
  return length <= file.size() - 8 ? static_cast<std::size_t>(length) : 0;
}

}  // namespace

const at::Tensor& SafeTensors::at(const std::string& name, const std::string& path) const {
  for (const auto& [key, tensor] : tensors) {
    if (key == name) return tensor;
  }
  throw FileError(path + ": no tensor " + name);
}

void write_safetensors(const std::string& path, const SafeTensors& content) {
  ordered_json header = ordered_json::object();
  if (!content.metadata.empty()) header["__metadata__"] = content.metadata;
  std::size_t offset = 0;
  for (const auto& [name, tensor] : content.tensors) {
    const std::size_t end = offset + tensor.nbytes();
    header[name] = {{"dtype", type_name(name, tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  const std::uint64_t length = text.size();
  AtomicFile file(path);
  file.write(&length, sizeof length);
  file.write(text);
  for (const auto& [name, tensor] : content.tensors) {
    const at::Tensor dense = tensor.contiguous();
    file.write(dense.const_data_ptr(), static_cast<Index>(dense.nbytes()));
  }
  file.commit();
}

SafeTensors read_safetensors(const std::string& path) {
  const std::string file = read_file(path);
  const std::size_t length = header_length(file);
  const auto header =
      ordered_json::parse(std::string_view(file).substr(std::min<std::size_t>(8, file.size()), length), nullptr, false);
  if (length == 0 || !header.is_object()) throw FileError(path + ": not a safetensors file");
  SafeTensors content;
  for (const auto& [name, json] : header.items()) {
    try {
      if (name == "__metadata__") {
        content.metadata = json.get<std::map<std::string, std::string>>();
        continue;
      }
      const Entry entry = read_entry(json, file.size() - 8 - length);
      at::Tensor tensor = at::empty(entry.shape, entry.type);
      if (entry.bytes > 0) std::memcpy(tensor.mutable_data_ptr(), file.data() + 8 + length + entry.begin, entry.bytes);
      content.tensors.emplace_back(name, tensor);
    } catch (const nlohmann::json::exception&) {
      throw FileError(concat(path, ": the entry ", name, " is damaged"));
    } catch (const FileError& error) {
      throw FileError(concat(path, ": ", name, ": ", error.what()));
    }
  }
  return content;
}

void copy_tensor(const SafeTensors& content, const std::string& name, const std::string& path, at::Tensor target) {
  const at::Tensor& source = content.at(name, path);
  if (source.sizes() != target.sizes() || source.scalar_type() != target.scalar_type()) {
    throw FileError(concat(path, ": ", name, " is ", source.sizes(), " of ", c10::toString(source.scalar_type()),
                           "; the configuration needs ", target.sizes(), " of ", c10::toString(target.scalar_type())));
  }
  const at::NoGradGuard no_gradient;
  target.copy_(source);
}

}  // namespace hsattn::lm
