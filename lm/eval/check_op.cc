#include "lm/eval/check_op.h"

#include <cmath>
#include <limits>

#include "lm/eval/exact_rows.h"
#include "lm/model/attention.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

struct Compared {
  Tensor got, exact;
};

// Largest difference of some tensors, as a share of the largest exact value in any of them: one may be all zeros, as dq
// and dk are where every row sees one key.
double error_share(const std::vector<Compared>& pairs) {
  double largest = 1e-30, difference = 0;
  for (const auto& [got, exact] : pairs) {
    if (exact.numel() == 0) continue;
    const double error = (got.to(at::kDouble) - exact).abs().max().item<double>();
    if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, error);
    largest = std::max(largest, exact.abs().max().item<double>());
  }
  return difference / largest;
}

double attended_tokens(const PlanView& plan) {
  double sum = 0;
  const PlanShape& shape = plan.shape;
  for (Index query : even_positions(shape.queries, 256)) {
    for (const Span& span : spans_of(plan, 0, 0, query)) {
      if (span.kind != Span::Kind::kFar) sum += static_cast<double>(span.size());
    }
  }
  return sum / static_cast<double>(std::min<Index>(shape.queries, 256));
}

}  // namespace

OpCheck check_op(const PlanOptions& options, const Tensor& q, const Tensor& k, const Tensor& v, int64_t rows,
                 bool backward) {
  Tensor o, lse, kept;
  {
    const at::NoGradGuard no_gradient;
    std::tie(o, lse, kept) = op_forward(options, q, k, v, /*keep_plan=*/true);
  }
  const PlanView plan = plan_view(options, q, k, kept);
  const std::vector<Index> positions = even_positions(q.size(2), rows);
  const at::AutoGradMode with_gradient(true);
  const auto exact_leaf = [](const Tensor& x) { return x.detach().to(at::kDouble).requires_grad_(); };
  const Tensor dq = exact_leaf(q), dk = exact_leaf(k), dv = exact_leaf(v);
  const Tensor index = at::tensor(positions);
  std::vector<Tensor> exact;
  for (Index b = 0; b < q.size(0); ++b) {
    for (Index h = 0; h < q.size(1); ++h) {
      const Index kv = h / (q.size(1) / k.size(1));
      const Tensor queries = dq[b][h], keys = dk[b][kv], values = dv[b][kv];
      for (const Index p : positions) {
        exact.push_back(exact_row(queries[p], keys, values, spans_of(plan, b, kv, p), plan.shape.pooling).output);
      }
    }
  }
  const Tensor exact_o = at::stack(exact).view({q.size(0), q.size(1), static_cast<Index>(positions.size()), q.size(3)});
  OpCheck result;
  result.forward_error = error_share({{o.index_select(2, index), exact_o.detach()}});
  result.attended_tokens = attended_tokens(plan);
  if (!backward) return result;

  const at::Generator generator = at::detail::createCPUGenerator(1);
  const Tensor gradient = at::empty_like(exact_o).normal_(0, 1, generator);
  const auto expected = torch::autograd::grad({exact_o}, {dq, dk, dv}, {gradient});
  const Tensor dout =
      at::zeros_like(q, at::MemoryFormat::Contiguous).index_copy_(2, index, gradient.to(q.scalar_type()));
  const at::NoGradGuard no_gradient;
  const auto [got_q, got_k, got_v] = op_backward(options, dout, q, k, v, o, lse, kept);
  result.backward_error = error_share({{got_q, expected[0]}, {got_k, expected[1]}, {got_v, expected[2]}});
  return result;
}

}  // namespace hsattn::lm
