#include "lm/pretrained/weights.h"

#include <cstring>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"
#include "lm/pretrained/weights_index.h"

namespace hsattn::lm {
namespace {

at::ScalarType scalar_type(const TensorPlace& place, const std::string& folder) {
  if (place.type == "F32") return at::kFloat;
  if (place.type == "BF16") return at::kBFloat16;
  if (place.type == "F16") return at::kHalf;
  if (place.type == "F64") return at::kDouble;
  throw Unsupported(concat(folder, ": tensor ", quoted(place.name), " has type ", place.type,
                           "; F32, BF16, F16 and F64 are supported"));
}

}  // namespace

Weights::Weights(const std::string& folder) : folder_(folder) {
  for (const std::string& path : weight_files(folder)) {
    files_.emplace_back(path);
    headers_.push_back(read_safetensors_header(files_.back().bytes(), path));
    for (const TensorPlace& tensor : headers_.back().tensors) {
      const bool is_new = places_.emplace(tensor.name, Place{&tensor, files_.size() - 1}).second;
      if (!is_new) throw FileError(concat(path, ": tensor ", quoted(tensor.name), " is in another file, too"));
    }
  }
}

void Weights::copy(const std::string& name, const at::Tensor& target) const {
  const auto found = places_.find(name);
  if (found == places_.end()) throw FileError(concat(folder_, ": no tensor ", name, ", which config.json asks for"));
  const TensorPlace& place = *found->second.tensor;
  if (target.sizes() != place.shape) {
    throw FileError(concat(folder_, ": tensor ", name, " has shape ", at::IntArrayRef(place.shape),
                           "; config.json asks for ", target.sizes()));
  }
  used_[name] = true;
  const char* bytes = files_[found->second.file].bytes().data() + place.begin;
  const at::ScalarType type = scalar_type(place, folder_);
  at::Tensor source;
  if (reinterpret_cast<std::uintptr_t>(bytes) % c10::elementSize(type) == 0) {
    source = at::from_blob(const_cast<char*>(bytes), place.shape, at::TensorOptions(type));
  } else {
    source = at::empty(place.shape, type);
    std::memcpy(source.mutable_data_ptr(), bytes, place.bytes);
  }
  target.copy_(source);
}

std::vector<std::string> Weights::unused() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) {
    const bool buffer = name.ends_with("rotary_emb.inv_freq");
    if (!used_.contains(name) && !buffer) names.push_back(name);
  }
  return names;
}

}  // namespace hsattn::lm
