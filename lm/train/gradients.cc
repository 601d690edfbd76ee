#include "lm/train/gradients.h"

#include "hsattn/base/error.h"
#include "lm/data/tasks.h"
#include "lm/model/precision.h"

namespace hsattn::lm {
namespace {

// Rows of the hidden states, windows end to end, whose next token belongs to an answer.
at::Tensor rows_before_answers(const at::Tensor& tokens) {
  const Index windows = tokens.size(0), context = tokens.size(1) - 1;
  const at::Tensor whole = tokens.contiguous();
  std::vector<int64_t> rows;
  for (Index w = 0; w < windows; ++w) {
    const auto* window = whole.const_data_ptr<int64_t>() + w * (context + 1);
    for (const Answer& answer : answers_in({window, static_cast<std::size_t>(context)})) {
      for (Index i = answer.begin; i < answer.end; ++i) rows.push_back(w * context + i - 1);
    }
  }
  check(!rows.empty(),
        "training: answers_only, but the windows hold no answer; texts of `hsattn task`, aligned, are right");
  return at::tensor(rows);
}

}  // namespace

GradientsResult compute_gradients(Transformer& model, Optimizer& optimizer, const at::Tensor& tokens, Index accumulate,
                                  bool bf16, bool answers_only) {
  const Index batch = tokens.size(0) / accumulate, context = tokens.size(1) - 1;
  optimizer.zero_gradients();
  double loss_sum = 0;
  for (Index i = 0; i < accumulate; ++i) {
    const at::Tensor part = tokens.slice(0, i * batch, (i + 1) * batch);
    const Autocast autocast(bf16);
    const at::Tensor loss = model.loss(part.slice(1, 0, context), part.slice(1, 1),
                                       answers_only ? rows_before_answers(part) : at::Tensor());
    (loss / static_cast<double>(accumulate)).backward();
    loss_sum += loss.item<double>();
  }
  return {loss_sum / static_cast<double>(accumulate), optimizer.clip_gradients()};
}

}  // namespace hsattn::lm
