// Who runs the loops. The caller may bring its own pool; results never depend on it, bit by bit.
#pragma once

#include <functional>
#include <memory>

#include "hsattn/base/types.h"

namespace hsattn {

class Executor {
 public:
  virtual ~Executor() = default;

  /// Threads that `run` may use at once, at least 1, which means that the caller's thread does everything.
  virtual int threads() const = 0;

  /// Calls body(0) .. body(tasks - 1), each once, in any order and on any thread, and waits for all.
  /// The first exception that a body throws is rethrown here. A body must not call run() of the same executor.
  /// The library's executors may be given to several threads that call run() at once.
  virtual void run(Index tasks, const std::function<void(Index)>& body) = 0;
};

/// Runs everything on the calling thread.
Executor& serial_executor();

/// A pool of `threads` threads (the caller's included); 0 means one per processor. Its threads start on the first run;
/// if the system gives fewer, these do the work. Callers of run() take turns. A child of fork() may use and destroy the
/// pool, with threads of its own, if no run() was under way when the process forked. Throws InvalidArgument if
/// `threads` is negative.
std::unique_ptr<Executor> make_thread_pool(int threads);

}  // namespace hsattn
