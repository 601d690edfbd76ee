// The dispatcher ops of torch_ops/, called by name.
#include "lm/model/ops.h"

#include "hsattn/plan/budgets.h"
#include "lm/model/attention.h"

namespace hsattn::lm {
namespace {

using at::Tensor;
using Three = std::tuple<Tensor, Tensor, Tensor>;

std::optional<Tensor> given(const Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; }

}  // namespace

DType type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kFloat16;
    default:
      throw InvalidArgument(concat("attention: a tensor has type ", c10::toString(x.scalar_type()),
                                   "; float32, float64, bfloat16 or float16 is right"));
  }
}

Three op_forward(const PlanOptions& options, const Tensor& q, const Tensor& k, const Tensor& v, bool keep_plan,
                 const std::optional<Tensor>& plan, const Pooled& pooled) {
  using Signature = Three(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::string_view,
                          bool, at::IntArrayRef, std::optional<double>, bool, const std::optional<Tensor>&,
                          const std::optional<Tensor>&, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::attention_forward");
  return op.call(q, k, v, plan, name_of(options.pattern), options.causal, budgets_of(options.hsa), std::nullopt,
                 keep_plan, std::nullopt, given(pooled.k), given(pooled.v));
}

OpGradients op_backward(const PlanOptions& options, const Tensor& dout, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& o, const Tensor& lse, const Tensor& kept, const Pooled& pooled) {
  using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  using Signature = Five(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                         const Tensor&, c10::string_view, bool, at::IntArrayRef, std::optional<double>,
                         const std::optional<Tensor>&, const std::optional<Tensor>&, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::attention_backward");
  const auto [dq, dk, dv, dpooled_k, dpooled_v] =
      op.call(dout, q, k, v, o, lse, kept, name_of(options.pattern), options.causal, budgets_of(options.hsa),
              std::nullopt, std::nullopt, given(pooled.k), given(pooled.v));
  return {dq, dk, dv, {dpooled_k, dpooled_v}};
}

Tensor plan_of(const PlanOptions& options, const Tensor& q, const Tensor& k, const Pooled& pooled) {
  using Signature = Tensor(const Tensor&, const Tensor&, c10::string_view, bool, at::IntArrayRef, std::optional<double>,
                           const std::optional<Tensor>&, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::make_plan");
  return op.call(q, k, name_of(options.pattern), options.causal, budgets_of(options.hsa), std::nullopt, std::nullopt,
                 given(pooled.k));
}

Pooled op_pool_forward(const std::string& pooling, Index block, const Tensor& k, const Tensor& v,
                       const Tensor& parameters) {
  using Signature = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, c10::string_view, int64_t,
                                               const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::pool_forward");
  const auto [pooled_k, pooled_v] = op.call(k, v, parameters, pooling, block, std::nullopt);
  return {pooled_k, pooled_v};
}

Three op_pool_backward(const std::string& pooling, Index block, const Pooled& dpooled, const Tensor& k, const Tensor& v,
                       const Tensor& parameters) {
  using Signature = Three(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, c10::string_view,
                          int64_t, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::pool_backward");
  return op.call(dpooled.k, dpooled.v, k, v, parameters, pooling, block, std::nullopt);
}

}  // namespace hsattn::lm
