// Files of the program: what is written, what grows, and what it is recognised by.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "hsattn/base/error.h"
#include "hsattn/base/files.h"
#include "hsattn/base/types.h"

namespace hsattn::lm {

using hsattn::AtomicFile;
using hsattn::FileError;

/// 64-bit FNV-1a over bytes: tells whether a file changed, not whether someone changed it on purpose.
class Fnv64 {
 public:
  Fnv64() = default;
  /// Goes on from an earlier value().
  explicit Fnv64(std::uint64_t state) : state_(state) {}
  void add(const void* data, std::size_t bytes);
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325ull;
};

/// A number as 16 hexadecimal digits.
std::string hex64(std::uint64_t value);

/// A file that grows at its end, through a buffer; not atomic.
class AppendFile {
 public:
  /// Makes the file, or cuts one that is there to `length` bytes. Throws FileError if it is shorter.
  AppendFile(const std::string& path, std::uint64_t length);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void write(std::string_view bytes);
  void flush();
  /// Flushes, then waits until the disk has it.
  void sync();
  /// Calls `body` with all bytes from the start, piece by piece. What is not flushed is not among them.
  void read_all(const std::function<void(std::string_view)>& body) const;
  /// Overwrites bytes that are flushed.
  void overwrite(std::uint64_t offset, std::string_view bytes);
  void rename(const std::string& path);

 private:
  std::string path_, buffer_;
  int descriptor_ = -1;
};

void write_file(const std::string& path, std::string_view text);
std::string read_file(const std::string& path);

/// Creates a folder and its parents; fine if it is there.
void make_folder(const std::string& path);
/// Makes renames and new files in a folder durable.
void sync_folder(const std::string& path);

}  // namespace hsattn::lm
