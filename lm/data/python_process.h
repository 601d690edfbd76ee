// `python -m hsattn.prepare` as a child process: frames from it, texts to it. python/hsattn/prepare/frames.py says how.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

struct Frame {
  enum Kind : char { kFile = 'F', kData = 'D', kEnd = 'E', kBad = 'X', kProgress = 'P', kFailed = 'M', kDone = 'Z' };
  Kind kind = kDone;
  std::string content;
};

class PythonProcess {
 public:
  /// Starts HSATTN_PYTHON, or the Python that the program was built with, or python3, with `arguments` behind the
  /// module's name. Throws FileError, naming `purpose`, if it cannot be started.
  PythonProcess(const std::vector<std::string>& arguments, const std::string& purpose);
  /// Ends it if it still runs.
  ~PythonProcess();
  PythonProcess(const PythonProcess&) = delete;
  PythonProcess& operator=(const PythonProcess&) = delete;

  /// A text for it, with its length.
  void send(std::string_view text);
  void end_of_texts();
  /// Throws FileError if it says that it failed, or is gone before it is done.
  void receive(Frame& frame);

 private:
  bool read(char* out, std::size_t bytes);

  std::string purpose_;
  pid_t child_ = -1;
  int to_ = -1, from_ = -1;
  std::vector<char> buffer_;
  std::size_t at_ = 0, filled_ = 0;
};

}  // namespace hsattn::lm
