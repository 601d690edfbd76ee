#include "lm/model/safetensors.h"

#include <nlohmann/json.hpp>

#include "lm/data/files.h"
#include "lm/data/mapped_file.h"
#include "lm/model/safetensors_header.h"
#include "lm/options/untrusted_json.h"

namespace hsattn::lm {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kAlignment = 8;  // of the first tensor, by spaces after the header

const char* type_name(const std::string& name, at::ScalarType type) {
  if (type == at::kFloat) return "F32";
  if (type == at::kLong) return "I64";
  throw FileError(concat("cannot save ", name, ": type ", c10::toString(type), "; float32 or int64 is right"));
}

at::ScalarType scalar_type(const TensorPlace& place, const std::string& path) {
  if (place.type == "F32") return at::kFloat;
  if (place.type == "I64") return at::kLong;
  throw FileError(concat(path, ": tensor ", quoted(place.name), " has type ", place.type, "; F32 or I64 is right"));
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
  const MappedFile file(path);
  SafeTensorsHeader header = read_safetensors_header(file.bytes(), path);
  SafeTensors content;
  content.metadata = std::move(header.metadata);
  for (const TensorPlace& place : header.tensors) {
    at::Tensor tensor = at::empty(place.shape, scalar_type(place, path));
    if (place.bytes > 0) std::memcpy(tensor.mutable_data_ptr(), file.bytes().data() + place.begin, place.bytes);
    content.tensors.emplace_back(place.name, tensor);
  }
  return content;
}

void copy_tensor(const SafeTensors& content, const std::string& name, const std::string& path,
                 const at::Tensor& target) {
  const at::Tensor& source = content.at(name, path);
  if (source.sizes() != target.sizes() || source.scalar_type() != target.scalar_type()) {
    throw FileError(concat(path, ": ", name, " is ", source.sizes(), " of ", c10::toString(source.scalar_type()),
                           "; the configuration needs ", target.sizes(), " of ", c10::toString(target.scalar_type())));
  }
  const at::NoGradGuard no_gradient;
  target.copy_(source);
}

}  // namespace hsattn::lm
