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

void write_all(int descriptor, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("write", path);
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
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
  write_all(descriptor_, {static_cast<const char*>(data), static_cast<std::size_t>(bytes)}, path_);
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

AppendFile::AppendFile(const std::string& path, std::uint64_t length) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("write", path);
  struct stat info{};
  const bool known = ::fstat(descriptor_, &info) == 0;
  const auto end = static_cast<off_t>(length);
  if (!known || info.st_size < end || ::ftruncate(descriptor_, end) != 0 ||
      ::lseek(descriptor_, end, SEEK_SET) != end) {
    ::close(descriptor_);
    if (known && info.st_size < end) {
      throw FileError(concat(path, ": ", info.st_size, " bytes; at least ", length, " were written before"));
    }
    fail("write", path);
  }
}

AppendFile::~AppendFile() { ::close(descriptor_); }

void AppendFile::write(std::string_view bytes) {
  constexpr std::size_t kBuffer = 1 << 20;
  buffer_.append(bytes);
  if (buffer_.size() >= kBuffer) flush();
}

void AppendFile::flush() {
  write_all(descriptor_, buffer_, path_);
  buffer_.clear();
}

void AppendFile::sync() {
  flush();
  if (::fsync(descriptor_) != 0) fail("write", path_);
}

void AppendFile::read_all(const std::function<void(std::string_view)>& body) const {
  std::string piece(1 << 20, '\0');
  for (off_t at = 0;;) {
    const ssize_t got = ::pread(descriptor_, piece.data(), piece.size(), at);
    if (got < 0) fail("read", path_);
    if (got == 0) return;
    body({piece.data(), static_cast<std::size_t>(got)});
    at += got;
  }
}

void AppendFile::overwrite(std::uint64_t offset, std::string_view bytes) {
  const ssize_t done = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
  if (done != static_cast<ssize_t>(bytes.size())) fail("write", path_);
}

void AppendFile::rename(const std::string& path) {
  if (::rename(path_.c_str(), path.c_str()) != 0) fail("rename", path_);
  path_ = path;
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
