#include "lm/data/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace hsattn::lm {
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

AppendFile::AppendFile(const std::string& path, std::uint64_t length) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_file_error("write", path);
  struct stat info{};
  const bool known = ::fstat(descriptor_, &info) == 0;
  const auto end = static_cast<off_t>(length);
  if (!known || info.st_size < end || ::ftruncate(descriptor_, end) != 0 ||
      ::lseek(descriptor_, end, SEEK_SET) != end) {
    ::close(descriptor_);
    if (known && info.st_size < end) {
      throw FileError(concat(path, ": ", info.st_size, " bytes; at least ", length, " were written before"));
    }
    throw_file_error("write", path);
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
  if (::fsync(descriptor_) != 0) throw_file_error("write", path_);
}

void AppendFile::read_all(const std::function<void(std::string_view)>& body) const {
  std::string piece(1 << 20, '\0');
  for (off_t at = 0;;) {
    const ssize_t got = ::pread(descriptor_, piece.data(), piece.size(), at);
    if (got < 0) throw_file_error("read", path_);
    if (got == 0) return;
    body({piece.data(), static_cast<std::size_t>(got)});
    at += got;
  }
}

void AppendFile::overwrite(std::uint64_t offset, std::string_view bytes) {
  const ssize_t done = ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
  if (done != static_cast<ssize_t>(bytes.size())) throw_file_error("write", path_);
}

void AppendFile::rename(const std::string& path) {
  if (::rename(path_.c_str(), path.c_str()) != 0) throw_file_error("rename", path_);
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
  if (!file) throw_file_error("read", path);
  std::ostringstream text;
  text << file.rdbuf();
  if (file.bad()) throw_file_error("read", path);
  return std::move(text).str();
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw FileError(concat("cannot create the folder ", path, ": ", error.message()));
}

void sync_folder(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) throw_file_error("open the folder", path);
  ::fsync(descriptor);  // some file systems refuse to sync a folder; the files themselves are synced
  ::close(descriptor);
}

}  // namespace hsattn::lm
