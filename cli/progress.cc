#include "cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "hsattn/base/error.h"

namespace hsattn::cli {
namespace {

constexpr Index kBarWidth = 24;
constexpr double kPlainEvery = 30;  // seconds: what is done sooner needs no lines in a pipe

std::size_t terminal_columns() {
  struct winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

Progress::Progress() : terminal_(::isatty(STDERR_FILENO) == 1) {}

void Progress::line(const std::string& text) {
  if (drawn_ > 0) std::cerr << '\r' << std::string(drawn_, ' ') << '\r';
  drawn_ = 0;
  std::cerr << text << std::endl;
}

void Progress::bar(Index done, Index all, const std::string& text) {
  if (!terminal_) return;
  const Index filled = all > 0 ? kBarWidth * done / all : 0;
  std::string row(1, '[');
  row.append(static_cast<std::size_t>(filled), '#').append(static_cast<std::size_t>(kBarWidth - filled), '.');
  row.append("] ").append(text);
  row.resize(std::min(row.size(), terminal_columns() - 1));
  const std::size_t clear = drawn_ > row.size() ? drawn_ - row.size() : 0;
  std::cerr << '\r' << row << std::string(clear, ' ') << std::flush;
  drawn_ = row.size();
}

void Progress::count(Index done, Index all, const std::string& what) {
  const double taken = seconds();
  std::string text = concat(done, "/", all, " ", what);
  if (done > 0) {
    text += concat(", eta ", duration(taken * static_cast<double>(all - done) / static_cast<double>(done)));
  }
  bar(done, all, text);
  if (terminal_ || taken < said_ + kPlainEvery) return;
  said_ = taken;
  line(text);
}

void Progress::finish() {
  if (drawn_ > 0) std::cerr << std::endl;
  drawn_ = 0;
}

std::string duration(double seconds) {
  const auto whole = static_cast<long long>(std::llround(std::max(seconds, 0.0)));
  char text[48];
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%lldh%02lldm", whole / 3600, whole / 60 % 60);
  } else {
    std::snprintf(text, sizeof text, "%lldm%02llds", whole / 60, whole % 60);
  }
  return text;
}

std::string short_number(double value) {
  char text[32];
  if (value >= 1e6) {
    std::snprintf(text, sizeof text, "%.2fM", value / 1e6);
  } else if (value >= 1e3) {
    std::snprintf(text, sizeof text, "%.1fk", value / 1e3);
  } else {
    std::snprintf(text, sizeof text, "%.0f", value);
  }
  return text;
}

std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

}  // namespace hsattn::cli
