// Progress on stderr: a bar that redraws itself on a terminal, plain lines in a pipe.
#pragma once

#include <chrono>
#include <string>

#include "hsattn/base/types.h"

namespace hsattn::cli {

class Progress {
 public:
  Progress();

  bool terminal() const { return terminal_; }
  /// A line that stays.
  void line(const std::string& text);
  /// The bar's share and the text behind it; nothing in a pipe.
  void bar(Index done, Index all, const std::string& text);
  /// "done/all what" and the time that is left: a bar, or in a pipe a line now and then.
  void count(Index done, Index all, const std::string& what);
  /// Ends the bar's line, if there is one.
  void finish();

 private:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

  bool terminal_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double said_ = 0;        // seconds after start_: the last line of count() in a pipe
  std::size_t drawn_ = 0;  // characters of the bar on the screen
};

/// 75 -> "1m15s".
std::string duration(double seconds);
/// 12345 -> "12.3k".
std::string short_number(double value);
/// Fixed point.
std::string fixed(double value, int digits);

}  // namespace hsattn::cli
