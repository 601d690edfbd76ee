#include "lm/train/windows.h"

#include <algorithm>
#include <span>

#include "lm/data/copying.h"

namespace hsattn::lm {
namespace {

std::span<std::int64_t> window(Windows& windows, Index i) {
  const auto length = static_cast<std::size_t>(windows.context + 1);
  return std::span(windows.tokens).subspan(static_cast<std::size_t>(i) * length, length);
}

}  // namespace

StepWindows::StepWindows(const TokenFile& text, const TrainOptions& options)
    : text_(text),
      options_(options),
      order_(text.tokens(), options.context, options.seed, options.aligned),
      short_order_(text.tokens(), windows_at(options, 1).context, options.seed, options.aligned) {}

Windows StepWindows::after(Index steps) const {
  const WindowShape shape = windows_at(options_, steps + 1);
  Windows windows;
  windows.count = shape.batch * options_.accumulate;
  windows.context = shape.context;
  windows.tokens.resize(static_cast<std::size_t>(windows.count * (windows.context + 1)));
  if (steps < options_.copy_steps) {
    draw(windows, steps);
  } else {
    read(windows, steps);
  }
  return windows;
}

void StepWindows::read(Windows& windows, Index steps) const {
  const bool first = steps < options_.short_steps;
  const Index before = steps - (first ? options_.copy_steps : std::max(options_.copy_steps, options_.short_steps));
  windows.starts = (first ? short_order_ : order_).windows(before * windows.count, windows.count);
  for (Index i = 0; i < windows.count; ++i) {
    text_.copy(windows.starts[static_cast<std::size_t>(i)], window(windows, i));
  }
}

void StepWindows::draw(Windows& windows, Index steps) const {
  for (Index i = 0; i < windows.count; ++i) {
    const auto number = static_cast<std::uint64_t>(steps * windows.count + i);
    write_copying_window(window(windows, i), options_.model.vocabulary,
                         (static_cast<std::uint64_t>(options_.seed) << 32) + number);
  }
}

}  // namespace hsattn::lm
