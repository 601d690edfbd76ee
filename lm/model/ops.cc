// The dispatcher ops of torch_ops/, called by name.
#include "hsattn/base/error.h"
#include "hsattn/plan/budgets.h"
#include "lm/model/attention.h"

namespace hsattn::lm {
namespace {

using at::Tensor;
using Three = std::tuple<Tensor, Tensor, Tensor>;

template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  const auto op = c10::Dispatcher::singleton().findSchema({name, ""});
  if (!op) throw Unsupported(concat("the op ", name, " is not in this program; build it with torch_ops/"));
  return op->typed<Signature>();
}

}  // namespace

Three op_forward(const PlanOptions& options, const Tensor& q, const Tensor& k, const Tensor& v, bool keep_plan,
                 const std::optional<Tensor>& plan) {
  using Signature = Three(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, c10::string_view,
                          bool, at::IntArrayRef, std::optional<double>, bool, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::attention_forward");
  return op.call(q, k, v, plan, name_of(options.pattern), options.causal, budgets_of(options.hsa), std::nullopt,
                 keep_plan, std::nullopt);
}

Three op_backward(const PlanOptions& options, const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v,
                  const Tensor& o, const Tensor& lse, const Tensor& kept) {
  using Signature =
      Three(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
            c10::string_view, bool, at::IntArrayRef, std::optional<double>, const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::attention_backward");
  return op.call(dout, q, k, v, o, lse, kept, name_of(options.pattern), options.causal, budgets_of(options.hsa),
                 std::nullopt, std::nullopt);
}

Tensor plan_of(const PlanOptions& options, const Tensor& q, const Tensor& k) {
  using Signature = Tensor(const Tensor&, const Tensor&, c10::string_view, bool, at::IntArrayRef, std::optional<double>,
                           const std::optional<Tensor>&);
  static const auto op = find_op<Signature>("hsattn::make_plan");
  return op.call(q, k, name_of(options.pattern), options.causal, budgets_of(options.hsa), std::nullopt, std::nullopt);
}

}  // namespace hsattn::lm
