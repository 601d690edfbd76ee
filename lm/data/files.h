// Files that are either whole or absent: written beside their final name, synced, renamed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "hsattn/base/error.h"
#include "hsattn/base/types.h"

namespace hsattn::lm {

/// A file could not be read, written or understood; the message names it and says why.
class FileError : public Error {
 public:
  using Error::Error;
};

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
