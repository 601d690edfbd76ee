// AdamW with gradient clipping, and the learning rate's course.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lm/model/torch.h"
#include "lm/train/options.h"

namespace hsattn::lm {

/// Linear warm-up, then a cosine from the highest rate to its share `min_learning_rate`. Steps count from 1.
double learning_rate_at(const TrainOptions& options, Index step);

class Optimizer {
 public:
  using Named = std::vector<std::pair<std::string, at::Tensor>>;

  /// Matrices decay, vectors do not.
  Optimizer(const Named& parameters, const TrainOptions& options);

  void zero_gradients();
  /// Norm of all gradients together, before they are scaled down to `clip`.
  double clip_gradients();
  void step(double learning_rate);

  /// Moments and step counts by name, for checkpoints: the tensors themselves, not copies.
  Named state() const;

 private:
  struct Group {
    std::vector<at::Tensor> parameters, first, second, steps;
    double decay = 0;
  };
  void add(const std::string& name, const at::Tensor& parameter, Group& group);

  TrainOptions options_;
  std::vector<at::Tensor> parameters_;
  Group matrices_, vectors_;
  Named state_;
};

}  // namespace hsattn::lm
