#include "lm/experiments/child.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <thread>

#include "lm/data/files.h"

namespace hsattn::lm {
namespace {

constexpr int kCannotStart = 127;
constexpr auto kPoll = std::chrono::milliseconds(50);

int open_output(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) throw FileError(concat("cannot write ", path, ": ", std::strerror(errno)));
  return descriptor;
}

// In the child, between fork and exec: system calls alone.
[[noreturn]] void become(char* const* words, int out, int err, pid_t parent) {
  ::setpgid(0, 0);  // Ctrl-C reaches the parent alone, which passes it on once
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(kCannotStart);  // it died before
  for (const int number : {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ}) ::signal(number, SIG_DFL);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  ::execv(words[0], words);
  ::_exit(kCannotStart);
}

double processor_seconds(const rusage& usage) {
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

// Looked up once: a program that is built anew while this one runs has another file.
std::string this_program() {
  static const std::string path = std::filesystem::read_symlink("/proc/self/exe").string();
  return path;
}

std::string shell_text(const std::vector<std::string>& words) {
  constexpr const char* kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=,:+%@";
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) {
      text += word;
      continue;
    }
    text += '\'';
    for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    text += '\'';
  }
  return text;
}

ChildEnd run_child(const std::vector<std::string>& words, const std::string& out, const std::string& err,
                   const std::atomic<bool>& interrupted, const std::function<void(double)>& tick) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  const int out_file = open_output(out), err_file = open_output(err);
  const auto began = std::chrono::steady_clock::now();
  const pid_t parent = ::getpid(), child = ::fork();
  if (child == 0) become(pointers.data(), out_file, err_file, parent);
  ::close(out_file), ::close(err_file);
  if (child < 0) throw FileError(concat("cannot start ", words[0], ": ", std::strerror(errno)));
  ChildEnd end;
  int status = 0;
  rusage usage{};
  bool asked = false;
  while (true) {
    const pid_t done = ::wait4(child, &status, WNOHANG, &usage);
    end.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    if (done == child || (done < 0 && errno != EINTR)) break;
    if (interrupted && !asked) ::kill(child, SIGINT), asked = true;
    tick(end.seconds);
    std::this_thread::sleep_for(kPoll);
  }
  end.code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  end.processor_seconds = processor_seconds(usage);
  return end;
}

}  // namespace hsattn::lm
