#include "lm/data/sources.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "hsattn/base/error.h"
#include "lm/data/python_process.h"

namespace hsattn::lm {
namespace {

constexpr unsigned kChunk = 1 << 20;
using GzipFile = std::unique_ptr<gzFile_s, int (*)(gzFile)>;

GzipFile open_gzip(const std::string& path) {
  errno = 0;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) throw FileError("cannot read " + path + ": it is a folder");
  GzipFile file(gzopen(path.c_str(), "rb"), gzclose_r);
  if (!file) throw FileError(concat("cannot read ", path, ": ", std::strerror(errno)));
  return file;
}

// Text as it is or through gzip: zlib reads both.
class PlainSource : public Source {
 public:
  explicit PlainSource(const std::string& path) : file_(open_gzip(path)) {
    name_ = path;
    position_.push_back('0');  // the only one
  }

  bool next() override { return !std::exchange(begun_, true); }

  bool read(std::string& out) override {
    const std::size_t before = out.size();
    out.resize(before + kChunk);
    const int got = gzread(file_.get(), out.data() + before, kChunk);
    out.resize(before + static_cast<std::size_t>(std::max(got, 0)));
    int code = Z_OK;
    const char* message = gzerror(file_.get(), &code);  // a cut file reads short, with Z_BUF_ERROR
    if (got < 0 || (code != Z_OK && code != Z_STREAM_END)) {
      throw BadFile(code == Z_ERRNO ? std::strerror(errno) : message);
    }
    return got > 0;
  }

  Index consumed() const override { return gzoffset(file_.get()); }

 private:
  GzipFile file_;
  bool begun_ = false;
};

class PythonSource : public Source {
 public:
  PythonSource(const std::string& path, const SourceOptions& options, const std::string& position)
      : process_({"read", "--rows", options.rows_are_lines ? "lines" : "documents", "--field", options.field, "--after",
                  position, "--", path},
                 path) {}

  bool next() override {
    while (!done_ && frame_.kind != Frame::kFile) receive();
    if (done_) return false;
    const std::size_t line = frame_.content.find('\n');
    position_ = frame_.content.substr(0, line);
    name_ = line == std::string::npos ? "" : frame_.content.substr(line + 1);
    frame_ = {};
    return true;
  }

  bool read(std::string& out) override {
    if (done_ || frame_.kind == Frame::kFile) return false;
    receive();
    if (frame_.kind == Frame::kBad) throw BadFile(frame_.content);
    if (frame_.kind != Frame::kData) return false;
    out.append(frame_.content);
    return true;
  }

  Index consumed() const override { return consumed_; }

 private:
  // The next frame that is no progress.
  void receive() {
    do {
      process_.receive(frame_);
      if (frame_.kind == Frame::kProgress && frame_.content.size() == 8) {
        std::memcpy(&consumed_, frame_.content.data(), 8);
      }
    } while (frame_.kind == Frame::kProgress);
    done_ = frame_.kind == Frame::kDone;
  }

  PythonProcess process_;
  Frame frame_{Frame::kEnd, ""};
  Index consumed_ = 0;
  bool done_ = false;
};

// The first bytes of a file, through gzip if it is that.
std::string first_bytes(const std::string& path) {
  const GzipFile file = open_gzip(path);
  std::string start(512, '\0');
  const int got = gzread(file.get(), start.data(), static_cast<unsigned>(start.size()));
  start.resize(static_cast<std::size_t>(std::max(got, 0)));
  return start;
}

bool needs_python(const std::string& start) {
  using namespace std::string_view_literals;
  for (const std::string_view magic : {"BZh"sv,
                                       "\xfd"
                                       "7zXZ\0"sv,
                                       "\x28\xb5\x2f\xfd"sv, "PK\x03\x04"sv, "PAR1"sv, "\x1f\x8b"sv}) {
    if (start.starts_with(magic)) return true;
  }
  return start.size() >= 262 && std::string_view(start).substr(257, 5) == "ustar";
}

}  // namespace

std::unique_ptr<Source> open_source(const std::string& path, const SourceOptions& options,
                                    const std::string& position) {
  if (needs_python(first_bytes(path))) return std::make_unique<PythonSource>(path, options, position);
  return std::make_unique<PlainSource>(path);
}

}  // namespace hsattn::lm
