// A file in memory as it lies on the disk, read-only.
#pragma once

#include <string>
#include <string_view>

namespace hsattn::lm {

class MappedFile {
 public:
  /// Throws FileError: it cannot be read, or is no regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view bytes() const { return bytes_; }

 private:
  std::string_view bytes_;
};

}  // namespace hsattn::lm
