// The safetensors format: an 8-byte length, a JSON header, raw little-endian tensors.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "lm/model/torch.h"

namespace hsattn::lm {

struct SafeTensors {
  std::vector<std::pair<std::string, at::Tensor>> tensors;  ///< float32 or int64, in the order of the file
  std::map<std::string, std::string> metadata;

  /// Throws FileError if there is none of that name.
  const at::Tensor& at(const std::string& name, const std::string& path) const;
};

/// Whole or absent. Throws FileError.
void write_safetensors(const std::string& path, const SafeTensors& content);

/// Checks the header's sizes against the file before anything is allocated. Throws FileError.
SafeTensors read_safetensors(const std::string& path);

/// Sets `target` to the tensor `name`. Throws FileError if shapes or types differ.
void copy_tensor(const SafeTensors& content, const std::string& name, const std::string& path,
                 const at::Tensor& target);

}  // namespace hsattn::lm
