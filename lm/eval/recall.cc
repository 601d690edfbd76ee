#include "lm/eval/recall.h"

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/data/tasks.h"
#include "lm/data/token_file.h"
#include "lm/model/model_file.h"
#include "lm/model/precision.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

// [context] the likeliest next token after each of the window's.
at::Tensor likeliest(Transformer& model, const at::Tensor& tokens, bool bf16) {
  const Autocast autocast(bf16);
  const at::Tensor hidden = model.hidden(tokens.unsqueeze(0));
  const Autocast float32(false);
  return at::matmul(hidden.to(at::kFloat), model.embedding().t()).argmax(-1);
}

void count_answers(const std::vector<int64_t>& tokens, const at::Tensor& next, Index limit, RecallReport& report) {
  for (const Answer& answer : answers_in(tokens)) {
    if (static_cast<Index>(report.right.size()) == limit) return;
    bool right = true;
    for (Index i = answer.begin; i < answer.end; ++i) {
      const bool same = next[i - 1].item<int64_t>() == tokens[static_cast<std::size_t>(i)];
      right = right && same;
      ++report.bytes, report.right_bytes += same;
    }
    report.right.push_back(right);
    report.distances.push_back(answer.distance);
  }
}

}  // namespace

RecallReport measure_recall(const RecallOptions& o, const std::atomic<bool>& interrupted,
                            const std::function<void(Index, Index)>& progress) {
  check(o.context >= 1 && o.context <= 1 << 24, "context is ", o.context, "; 1 to 16777216 is right");
  check(o.answers >= 1, "answers is ", o.answers, "; at least 1 is right");
  choose_attention(o.attention, AttentionOptions());  // before files are read
  use_threads(o.threads);
  const bool bf16 = resolve_precision(o.precision) == "bf16";
  RecallReport report;
  report.model_file = model_file_of(o.model);
  const auto model = load_model(report.model_file);
  const AttentionOptions attention = choose_attention(o.attention, model->config().attention);
  model->set_attention(attention);
  report.attention = attention.attention;
  const TokenFile text(o.data + "/heldout.tokens");
  const at::NoGradGuard no_gradient;
  std::vector<int64_t> tokens(static_cast<std::size_t>(o.context));
  for (Index begin = 0; begin + o.context <= text.tokens(); begin += o.context) {
    if (static_cast<Index>(report.right.size()) >= o.answers) break;
    if (interrupted) {
      report.interrupted = true;
      return report;
    }
    text.copy(begin, tokens);
    count_answers(tokens, likeliest(*model, at::tensor(tokens), bf16), o.answers, report);
    if (progress) progress(static_cast<Index>(report.right.size()), o.answers);
  }
  if (static_cast<Index>(report.right.size()) < o.answers) {
    throw FileError(concat(text.path(), " asks ", report.right.size(), " questions in samples of ", o.context,
                           " tokens, ", o.answers, " are wanted"));
  }
  return report;
}

}  // namespace hsattn::lm
