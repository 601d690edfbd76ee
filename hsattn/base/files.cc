#include "hsattn/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace hsattn {

void throw_file_error(const char* what, const std::string& path) {
  const int error = errno;
  throw FileError(concat("cannot ", what, " ", path, ": ", std::strerror(error)));
}

void write_all(int descriptor, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw_file_error("write", path);
    bytes.remove_prefix(static_cast<std::size_t>(done));
  }
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  struct stat info{};
  in_place_ = ::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode);
  part_ = in_place_ ? path : path + ".part";
  const int flags = in_place_ ? O_WRONLY : O_WRONLY | O_CREAT | O_TRUNC;
  descriptor_ = ::open(part_.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_file_error("write", path_);
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
  if (::pwrite(descriptor_, data, static_cast<std::size_t>(bytes), offset) != bytes) throw_file_error("write", path_);
}

void AtomicFile::commit() {
  if (!in_place_ && ::fsync(descriptor_) != 0) throw_file_error("write", path_);
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0) throw_file_error("write", path_);
  if (!in_place_ && ::rename(part_.c_str(), path_.c_str()) != 0) throw_file_error("rename", part_);
}

}  // namespace hsattn
