// Counts what a long measurement has done, says so, and ends it when asked to.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <string>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// Told how far a measurement is, and what comes next; may be empty.
using ProgressFunction = std::function<void(Index done, Index all, const std::string& what)>;

class Steps {
 public:
  struct Interrupted : std::exception {
    const char* what() const noexcept override { return "interrupted"; }
  };

  /// Both outlive this.
  Steps(const std::atomic<bool>& interrupted, const ProgressFunction& progress)
      : interrupted_(interrupted), progress_(progress) {}

  void expect(Index all) { all_ = all; }
  /// Says what is being done. Throws Interrupted when asked to end.
  void say(const std::string& what) const {
    stop_if_asked();
    if (progress_) progress_(std::min(done_, all_ - 1), all_, what);
  }
  void stop_if_asked() const {
    if (interrupted_) throw Interrupted{};
  }
  void advance() { ++done_; }
  /// For steps that are told one by one.
  void next(const std::string& what) {
    say(what);
    advance();
  }

 private:
  const std::atomic<bool>& interrupted_;
  const ProgressFunction& progress_;
  Index done_ = 0, all_ = 1;
};

/// What `run` returns; a Report that says `interrupted` if it was asked to end.
template <class Report, class Run>
Report unless_interrupted(Run&& run) {
  try {
    return run();
  } catch (const Steps::Interrupted&) {
    Report report;
    report.interrupted = true;
    return report;
  }
}

}  // namespace hsattn::lm
