#include "lm/eval/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "hsattn/base/error.h"
#include "lm/data/batches.h"
#include "lm/data/token_file.h"
#include "lm/eval/text_units.h"
#include "lm/model/precision.h"
#include "lm/model/transformer.h"

namespace hsattn::lm {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

}  // namespace

EvalResult evaluate_model(Transformer& model, const TokenFile& text, Index context, Index limit, bool bf16,
                          const std::atomic<bool>& interrupted, const std::function<void(Index, Index)>& progress,
                          const TextUnits* units) {
  const at::NoGradGuard no_gradient;
  const std::vector<Index> starts = even_windows(text.tokens(), context, limit);
  std::vector<int64_t> tokens(static_cast<std::size_t>(context + 1));
  std::vector<double> times;
  double sum = 0, sum_last = 0;
  AttentionStatistics& statistics = model.statistics();
  statistics = {};
  EvalResult result;
  for (const Index start : starts) {
    if (interrupted) {
      result.interrupted = true;
      return result;
    }
    text.copy(start, tokens);
    if (units != nullptr) {
      const TextCount count = units->count(tokens);
      result.bytes += count.bytes, result.words += count.words;
    }
    const at::Tensor all = at::from_blob(tokens.data(), {context + 1}, at::kLong);
    const auto began = std::chrono::steady_clock::now();
    at::Tensor losses;
    {
      const Autocast autocast(bf16);
      losses = token_losses(model.hidden(all.slice(0, 0, context).unsqueeze(0)), model.embedding(), all.slice(0, 1));
    }
    times.push_back(seconds_since(began));
    losses = losses.to(at::kDouble);
    const double sum_of_window = losses.sum().item<double>();
    if (!std::isfinite(sum_of_window)) {
      throw Error(
          concat("the model's losses at token ", start, " and behind are not finite; its weights may be broken"));
    }
    sum += sum_of_window;
    sum_last += losses.slice(0, context - context / 4).sum().item<double>();
    if (progress) progress(static_cast<Index>(times.size()), static_cast<Index>(starts.size()));
  }
  const double windows = static_cast<double>(starts.size());
  double seconds = 0;
  for (const double time : times) seconds += time;
  result.windows = static_cast<Index>(starts.size());
  result.context = context;
  result.tokens = result.windows * context;
  result.loss = sum / (windows * static_cast<double>(context));
  const Index quarter = context / 4;
  result.loss_last_quarter = quarter > 0 ? sum_last / (windows * static_cast<double>(quarter)) : result.loss;
  result.attended_tokens = statistics.attended_per_call();
  result.attention_share = statistics.seconds / seconds;
  result.forward_ms = 1e3 * median(times);
  result.tokens_per_s = static_cast<double>(result.tokens) / seconds;
  return result;
}

}  // namespace hsattn::lm
