#include "lm/train/optimizer.h"

#include <cmath>
#include <numbers>

namespace hsattn::lm {

double learning_rate_at(const TrainOptions& o, Index step) {
  const double highest = o.learning_rate, lowest = highest * o.min_learning_rate;
  if (step <= o.warmup) return highest * static_cast<double>(step) / static_cast<double>(o.warmup);
  const Index course = std::max<Index>(o.steps - o.warmup, 1);
  const double share = std::min(1.0, static_cast<double>(step - o.warmup) / static_cast<double>(course));
  return lowest + 0.5 * (highest - lowest) * (1 + std::cos(std::numbers::pi * share));
}

Optimizer::Optimizer(const Named& parameters, const TrainOptions& options) : options_(options) {
  matrices_.decay = options.weight_decay;
  for (const auto& [name, parameter] : parameters) {
    parameters_.push_back(parameter);
    add(name, parameter, parameter.dim() > 1 ? matrices_ : vectors_);
  }
}

void Optimizer::add(const std::string& name, const at::Tensor& parameter, Group& group) {
  group.parameters.push_back(parameter.detach());  // the same memory, without autograd
  group.first.push_back(at::zeros_like(parameter));
  group.second.push_back(at::zeros_like(parameter));
  group.steps.push_back(at::zeros({}, at::kFloat));
  state_.emplace_back("first." + name, group.first.back());
  state_.emplace_back("second." + name, group.second.back());
  state_.emplace_back("step." + name, group.steps.back());
}

void Optimizer::zero_gradients() {
  for (at::Tensor& parameter : parameters_) parameter.mutable_grad() = at::Tensor();
}

double Optimizer::clip_gradients() {
  const at::NoGradGuard no_gradient;
  std::vector<at::Tensor> norms;
  for (const at::Tensor& parameter : parameters_) norms.push_back(at::linalg_vector_norm(parameter.grad()));
  const double norm = at::linalg_vector_norm(at::stack(norms)).item<double>();
  if (options_.clip > 0 && std::isfinite(norm) && norm > options_.clip) {
    for (at::Tensor& parameter : parameters_) parameter.mutable_grad().mul_(options_.clip / norm);
  }
  return norm;
}

void Optimizer::step(double learning_rate) {
  const at::NoGradGuard no_gradient;
  constexpr double kEpsilon = 1e-8;
  std::size_t matrix = 0, vector = 0;
  std::vector<at::Tensor> matrix_gradients(matrices_.parameters.size()), vector_gradients(vectors_.parameters.size());
  for (const at::Tensor& parameter : parameters_) {
    (parameter.dim() > 1 ? matrix_gradients[matrix++] : vector_gradients[vector++]) = parameter.grad();
  }
  for (auto [group, gradients] : {std::pair{&matrices_, &matrix_gradients}, std::pair{&vectors_, &vector_gradients}}) {
    for (at::Tensor& count : group->steps) count.add_(1);
    at::_fused_adamw_(group->parameters, *gradients, group->first, group->second, {}, group->steps, learning_rate,
                      options_.beta1, options_.beta2, group->decay, kEpsilon, /*amsgrad=*/false, /*maximize=*/false);
  }
}

Optimizer::Named Optimizer::state() const { return state_; }

}  // namespace hsattn::lm
