#include "lm/train/gradients.h"

#include "lm/model/precision.h"

namespace hsattn::lm {

GradientsResult compute_gradients(Transformer& model, Optimizer& optimizer, const at::Tensor& tokens, Index accumulate,
                                  bool bf16) {
  const Index batch = tokens.size(0) / accumulate, context = tokens.size(1) - 1;
  optimizer.zero_gradients();
  double loss_sum = 0;
  for (Index i = 0; i < accumulate; ++i) {
    const at::Tensor part = tokens.slice(0, i * batch, (i + 1) * batch);
    const Autocast autocast(bf16);
    const at::Tensor loss = model.loss(part.slice(1, 0, context), part.slice(1, 1));
    (loss / static_cast<double>(accumulate)).backward();
    loss_sum += loss.item<double>();
  }
  return {loss_sum / static_cast<double>(accumulate), optimizer.clip_gradients()};
}

}  // namespace hsattn::lm
