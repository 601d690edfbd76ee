// The part of a training step before the optimizer's: forward, loss, backward, clipping. One for trainer and benchmark.
#pragma once

#include "lm/model/transformer.h"
#include "lm/train/optimizer.h"

namespace hsattn::lm {

struct GradientsResult {
  double loss = 0;  ///< mean over the windows, nats per token
  double norm = 0;  ///< of all gradients together, before clipping
};

/// Leaves in the weights the clipped gradient of the mean loss over `tokens` [windows, context + 1], computed in
/// `accumulate` equal parts; with `answers_only`, the loss of the answers in them (lm/data/tasks.h).
GradientsResult compute_gradients(Transformer& model, Optimizer& optimizer, const at::Tensor& tokens, Index accumulate,
                                  bool bf16, bool answers_only = false);

}  // namespace hsattn::lm
