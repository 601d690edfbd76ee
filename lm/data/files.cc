#include "lm/data/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace hsattn::lm {
namespace {

[[noreturn]] void fail(const char* what, const std::string& path) {
  const int error = errno;
  throw FileError(concat("cannot ", what, " ", path, ": ", std::strerror(error)));
}

}  // namespace

void Fnv64::add(const void* data, std::size_t bytes) {
  const auto* at = static_cast<const unsigned char*>(data);
  std::uint64_t state = state_;
  for (std::size_t i = 0; i < bytes; ++i) state = (state ^ at[i]) * 0x100000001b3ull;
  state_ = state;
}

std::string hex64(std::uint64_t value) {
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, value >>= 4) text[static_cast<std::size_t>(i)] = "0123456789abcdef"[value & 15];
  return text;
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  struct stat info{};
  in_place_ = ::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode);
  part_ = in_place_ ? path : path + ".part";
  const int flags = in_place_ ? O_WRONLY : O_WRONLY | O_CREAT | O_TRUNC;
  descriptor_ = ::open(part_.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("write", path_);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!in_place_) ::unlink(part_.c_str());
}

void AtomicFile::write(const void* data, Index bytes) {
  const auto* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::write(descriptor_, at, static_cast<std::size_t>(bytes));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("write", path_);
    at += done;
    bytes -= done;
  }
}

void AtomicFile::write_at(Index offset, const void* data, Index bytes) {
  if (::pwrite(descriptor_, data, static_cast<std::size_t>(bytes), offset) != bytes) fail("write", path_);
}

void AtomicFile::commit() {
  if (!in_place_ && ::fsync(descriptor_) != 0) fail("write", path_);
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) fail("write", path_);
  if (!in_place_ && ::rename(part_.c_str(), path_.c_str()) != 0) fail("rename", part_);
}

void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string read_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw FileError("cannot read " + path + ": it is a folder");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) fail("read", path);
  std::ostringstream text;
  text << file.rdbuf();
  if (file.bad()) fail("read", path);
  return std::move(text).str();
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw FileError(concat("cannot create the folder ", path, ": ", error.message()));
}

void sync_folder(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail("open the folder", path);
  ::fsync(descriptor);  // some file systems refuse to sync a folder; the files themselves are synced
  ::close(descriptor);
}

}  // namespace hsattn::lm
