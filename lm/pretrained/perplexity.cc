#include "lm/pretrained/perplexity.h"

#include <chrono>
#include <cmath>

#include "hsattn/base/error.h"
#include "lm/data/batches.h"
#include "lm/data/documents.h"
#include "lm/data/files.h"

namespace hsattn::lm {

double PerplexityReport::loss() const { return mean(losses); }

double PerplexityReport::loss_last_half() const {
  const auto length = static_cast<std::size_t>(context);
  double sum = 0;
  for (std::size_t begin = 0; begin < losses.size(); begin += length) {
    sum += mean(std::span(losses).subspan(begin + length / 2, length - length / 2));
  }
  return sum / static_cast<double>(windows);
}

double PerplexityReport::loss_per_byte() const {
  return loss() * static_cast<double>(losses.size()) / static_cast<double>(bytes);
}

std::vector<Token> tokens_of_text(const Runtime& runtime, const std::string& path) {
  std::vector<Token> tokens;
  for (const Document& document : read_documents({path}, "text").items) {
    try {
      const std::vector<Token> more = runtime.encode(document.text);
      tokens.insert(tokens.end(), more.begin(), more.end());
    } catch (const InvalidArgument& error) {
      throw FileError(document.name + ": " + error.what());
    }
  }
  return tokens;
}

std::vector<std::vector<Token>> windows_of_text(const Runtime& runtime, const std::string& path, Index context,
                                                Index count) {
  const std::vector<Token> all = tokens_of_text(runtime, path);
  if (std::ssize(all) < count * context + 1) {
    throw FileError(
        concat(path, " has ", all.size(), " tokens; ", count, " windows of ", context, " need ", count * context + 1));
  }
  std::vector<std::vector<Token>> windows;
  for (const Index start : even_windows(std::ssize(all), context, count)) {
    windows.emplace_back(all.begin() + start, all.begin() + start + context + 1);
  }
  return windows;
}

Interval change_of_perplexity(std::span<const double> ours, std::span<const double> theirs) {
  const Interval losses = paired_difference(ours, theirs);
  const double change = std::expm1(losses.mean);
  return {change, std::isfinite(losses.half) ? std::expm1(losses.high()) - change : losses.half};
}

PerplexityReport measure_perplexity(Runtime& runtime, const PretrainedEvalOptions& options,
                                    const std::atomic<bool>& interrupted,
                                    const std::function<void(Index, Index)>& progress) {
  const std::vector<Token> all = tokens_of_text(runtime, options.text);
  const std::vector<Index> starts = even_windows(static_cast<Index>(all.size()), options.context, options.windows);
  PerplexityReport report;
  report.context = options.context;
  const auto began = std::chrono::steady_clock::now();
  for (const Index start : starts) {
    if (interrupted) {
      report.interrupted = true;
      return report;
    }
    const auto first = all.begin() + start;
    const std::vector<double> losses = runtime.losses({first, first + options.context + 1});
    report.losses.insert(report.losses.end(), losses.begin(), losses.end());
    for (Index i = 1; i <= options.context; ++i) {
      report.bytes += static_cast<Index>(runtime.tokenizer().bytes_of(first[i]).size());
    }
    if (progress) progress(++report.windows, static_cast<Index>(starts.size()));
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return report;
}

void check_perplexity_options(const PretrainedEvalOptions& o) {
  check_pretrained_options(o);
  check(!o.text.empty(), "no --text; name a file, or a folder of files");
  check(o.context >= 2 && o.context <= 1 << 24, "context is ", o.context, "; 2 to 16777216 is right");
  check(o.windows >= 0, "windows is ", o.windows, "; at least 0 is right");
}

}  // namespace hsattn::lm
