// A child process: this program again, its output in files. No torch here.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <string>
#include <vector>

namespace hsattn::lm {

/// The file of this program.
std::string this_program();

/// A command line as a shell would take it.
std::string shell_text(const std::vector<std::string>& words);

struct ChildEnd {
  int code = 0;  ///< exit code; 128 + number after a signal
  double seconds = 0;
  double processor_seconds = 0;  ///< of all its threads
};

/// Runs `words` with stdout and stderr into files and waits. Once `interrupted` is set, asks it to end (SIGINT) and
/// goes on waiting. The child is killed if this process dies. Calls `tick` a few times a second. Throws FileError.
ChildEnd run_child(const std::vector<std::string>& words, const std::string& out, const std::string& err,
                   const std::atomic<bool>& interrupted, const std::function<void(double seconds)>& tick);

}  // namespace hsattn::lm
