// The header of a safetensors file, an untrusted one: where each tensor lies. No torch here.
//
// The file: 8 bytes, the length of the header, little-endian; the header, a JSON object; the tensors' bytes.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// Where one tensor lies, within the file.
struct TensorPlace {
  std::string name;
  std::string type;          ///< "F32", "BF16", ... as the format spells them
  std::vector<Index> shape;  ///< its product times the size of the type is `bytes`
  std::size_t begin = 0;     ///< from the start of the file; need not be aligned
  std::size_t bytes = 0;
};

struct SafeTensorsHeader {
  std::vector<TensorPlace> tensors;  ///< in the order of the header
  std::map<std::string, std::string> metadata;
};

/// Reads the header of a whole file. The tensors' bytes are not touched, and what is allocated is in proportion to the
/// header's bytes. The same is refused as by the `safetensors` package: a header above 100 MB or longer than the file,
/// damaged JSON, two tensors of one name, unknown types, shapes and offsets that disagree, overlap, holes, bytes behind
/// the last tensor. Throws FileError that begins with `path`.
SafeTensorsHeader read_safetensors_header(std::string_view file, const std::string& path);

}  // namespace hsattn::lm
