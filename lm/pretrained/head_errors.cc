#include "lm/pretrained/head_errors.h"

#include "lm/model/attention.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

Tensor attention_of(const PlanOptions& options, const Tensor& q, const Tensor& k, const Tensor& v) {
  return std::get<0>(op_forward(options, q, k, v, /*keep_plan=*/false));
}

// Mean over tokens of what `difference` [heads, n, dim], multiplied by its columns of `weight` [width, heads * dim],
// adds to the states, as a share of them: squares over squares.
double share_of_states(const Tensor& difference, const Tensor& weight, const Tensor& squared_states) {
  const Tensor rows = difference.transpose(0, 1).reshape({difference.size(1), -1});
  return at::mm(rows, weight.t()).square_().sum(1).div_(squared_states).mean().item<double>();
}

}  // namespace

HeadErrors::HeadErrors(std::vector<AttentionOptions> layers, std::vector<Index> top_k)
    : layers_(std::move(layers)), top_k_(std::move(top_k)), curves_(layers_.size()) {}

void HeadErrors::add(const LayerInputs& in) {
  std::vector<BudgetCurve>& heads = curves_[static_cast<std::size_t>(in.layer)];
  heads.assign(static_cast<std::size_t>(in.k.size(1)), {top_k_, std::vector<double>(top_k_.size(), 0.0)});
  const Tensor q = in.q.to(at::kFloat), k = in.k.to(at::kFloat), v = in.v.to(at::kFloat);
  const Tensor weight = in.attention_out.to(at::kFloat);
  // A state of zeros, which no model has, must not make a share of what is nothing.
  const Tensor squared_states = in.states.to(at::kFloat).square().sum(1).clamp_min_(1e-30);
  PlanOptions options = layers_[static_cast<std::size_t>(in.layer)].plan_options();
  options.pattern = Pattern::kFull;
  const Tensor full = attention_of(options, q, k, v);
  options.pattern = Pattern::kHsa;
  const Index group = q.size(1) / k.size(1), columns = group * q.size(3);
  for (std::size_t i = 0; i < top_k_.size(); ++i) {
    options.hsa.top_k = top_k_[i];
    const Tensor difference = (attention_of(options, q, k, v) - full)[0];
    for (Index head = 0; head < k.size(1); ++head) {
      heads[static_cast<std::size_t>(head)].errors[i] =
          share_of_states(difference.slice(0, head * group, (head + 1) * group),
                          weight.slice(1, head * columns, (head + 1) * columns), squared_states);
    }
  }
}

}  // namespace hsattn::lm
