// Files that are either whole or absent: written beside their final name, synced, renamed.
#pragma once

#include <string>
#include <string_view>

#include "hsattn/base/error.h"
#include "hsattn/base/types.h"

namespace hsattn {

/// Writes `path`.part and renames it to `path` on commit(); without commit() nothing is left behind.
/// A path that exists and is no regular file (a pipe, /dev/stdout) is written in place.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, Index bytes);
  void write(std::string_view text) { write(text.data(), static_cast<Index>(text.size())); }
  /// Overwrites `bytes` bytes at `offset`, for headers that are known last. Regular files only.
  void write_at(Index offset, const void* data, Index bytes);
  /// Syncs to the disk and gives the file its final name.
  void commit();

 private:
  std::string path_, part_;
  int descriptor_ = -1;
  bool in_place_ = false;
};

/// Throws FileError with the reason in errno: cannot WHAT PATH: REASON.
[[noreturn]] void throw_file_error(const char* what, const std::string& path);

/// Writes all bytes to a file descriptor; `path` is for the error.
void write_all(int descriptor, std::string_view bytes, const std::string& path);

}  // namespace hsattn
