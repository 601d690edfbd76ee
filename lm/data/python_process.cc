#include "lm/data/python_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "hsattn/base/error.h"
#include "lm/data/files.h"

extern char** environ;

namespace hsattn::lm {
namespace {

constexpr std::uint64_t kLargestFrame = 1ull << 31;  // a row of Parquet comes in one frame

std::string python_program() {
  const char* named = std::getenv("HSATTN_PYTHON");
  if (named != nullptr && *named != '\0') return named;
  return std::filesystem::exists(HSATTN_BUILD_PYTHON) ? HSATTN_BUILD_PYTHON : "python3";
}

// The environment with the package of the source tree, where it still lies there, before what PYTHONPATH has.
std::vector<std::string> child_environment() {
  std::vector<std::string> all;
  std::string path = std::filesystem::exists(HSATTN_PYTHON_FOLDER) ? HSATTN_PYTHON_FOLDER : "";
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view variable(*entry);
    if (!variable.starts_with("PYTHONPATH=")) {
      all.emplace_back(variable);
    } else {
      path.append(":").append(variable.substr(11));
    }
  }
  if (!path.empty()) all.push_back("PYTHONPATH=" + path);
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

}  // namespace

PythonProcess::PythonProcess(const std::vector<std::string>& arguments, const std::string& purpose)
    : purpose_(purpose), buffer_(1 << 18) {
  std::vector<std::string> words = {python_program(), "-m", "hsattn.prepare"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> variables = child_environment();
  int input[2], output[2];
  if (::pipe2(input, O_CLOEXEC) != 0 || ::pipe2(output, O_CLOEXEC) != 0) {
    throw FileError(concat(purpose, ": no pipe to Python: ", std::strerror(errno)));
  }
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, input[0], STDIN_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO);
  const int error =
      ::posix_spawnp(&child_, words[0].c_str(), &actions, nullptr, pointers(words).data(), pointers(variables).data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(input[0]);
  ::close(output[1]);
  to_ = input[1], from_ = output[0];
  if (error != 0) {
    child_ = -1;
    ::close(to_);
    ::close(from_);
    throw FileError(concat(purpose, " needs Python, but ", words[0], " cannot be started: ", std::strerror(error),
                           "; HSATTN_PYTHON names another one"));
  }
}

PythonProcess::~PythonProcess() {
  if (to_ >= 0) ::close(to_);
  ::close(from_);
  ::kill(child_, SIGTERM);  // its pipe is closed; it has nothing to save
  while (::waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void PythonProcess::send(std::string_view text) {
  const std::uint64_t length = text.size();
  std::string whole(reinterpret_cast<const char*>(&length), sizeof length);
  whole.append(text);
  for (std::string_view rest = whole; !rest.empty();) {
    const ssize_t done = ::write(to_, rest.data(), rest.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return;  // it has ended; receive() tells why
    rest.remove_prefix(static_cast<std::size_t>(done));
  }
}

void PythonProcess::end_of_texts() {
  ::close(to_);
  to_ = -1;
}

// False at the end of the stream.
bool PythonProcess::read(char* out, std::size_t bytes) {
  while (bytes > 0) {
    if (at_ == filled_) {
      const ssize_t got = ::read(from_, buffer_.data(), buffer_.size());
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      at_ = 0, filled_ = static_cast<std::size_t>(got);
    }
    const std::size_t step = std::min(bytes, filled_ - at_);
    std::memcpy(out, buffer_.data() + at_, step);
    out += step, bytes -= step, at_ += step;
  }
  return true;
}

void PythonProcess::receive(Frame& frame) {
  char kind = 0;
  std::uint64_t length = 0;
  bool whole = read(&kind, 1) && read(reinterpret_cast<char*>(&length), sizeof length) && length <= kLargestFrame;
  if (whole) {
    frame.content.resize(static_cast<std::size_t>(length));
    whole = read(frame.content.data(), frame.content.size());
  }
  if (!whole) {
    throw FileError(concat(purpose_, ": Python ended before it was done; it needs the package hsattn (",
                           python_program(), " -m hsattn.prepare --help)"));
  }
  frame.kind = static_cast<Frame::Kind>(kind);
  if (frame.kind == Frame::kFailed) throw FileError(frame.content);
}

}  // namespace hsattn::lm
