// The weights of a Hugging Face folder, read where they lie.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "lm/data/mapped_file.h"
#include "lm/model/safetensors_header.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

class Weights {
 public:
  /// Maps the files and checks their headers. Throws FileError.
  explicit Weights(const std::string& folder);

  bool has(const std::string& name) const { return places_.contains(name); }
  /// Copies a tensor of F32, BF16, F16 or F64 into `target`, converting. Throws FileError: it is not there, or its
  /// shape is another; Unsupported: its type.
  void copy(const std::string& name, const at::Tensor& target) const;
  /// Names that copy() was not asked for yet, in order. Buffers that older versions saved beside weights are not among
  /// them.
  std::vector<std::string> unused() const;

 private:
  struct Place {
    const TensorPlace* tensor;
    std::size_t file;
  };
  std::string folder_;
  std::deque<MappedFile> files_;
  std::deque<SafeTensorsHeader> headers_;
  std::map<std::string, Place> places_;
  mutable std::map<std::string, bool> used_;
};

}  // namespace hsattn::lm
