#include "lm/eval/check_op.h"

#include <cmath>
#include <functional>
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

// Some rows of attention in double, and their gradients.
struct Exact {
  Tensor rows;                    // [rows]: positions
  Tensor o;                       // [B, H, rows, d]
  Tensor dout;                    // [B, H, n, d], of q's type
  std::vector<Tensor> gradients;  // dq, dk, dv; these and dout only if asked for
};

// [rows, d] of one head: queries [rows, d] at `positions`, keys and values [n, d], in double.
using RowsOfHead = std::function<Tensor(Index batch, Index kv_head, const std::vector<Index>& positions,
                                        const Tensor& queries, const Tensor& keys, const Tensor& values)>;

Exact exact_rows(const RowsOfHead& attend, const Tensor& q, const Tensor& k, const Tensor& v, Index rows,
                 bool backward) {
  const std::vector<Index> positions = even_positions(q.size(2), rows);
  const at::AutoGradMode with_gradient(backward);
  const auto leaf = [&](const Tensor& x) { return backward ? x.detach().to(at::kDouble).requires_grad_() : x; };
  const Tensor dq = leaf(q), dk = leaf(k), dv = leaf(v);
  std::vector<Tensor> outputs;
  for (Index b = 0; b < q.size(0); ++b) {
    for (Index h = 0; h < q.size(1); ++h) {
      const Index kv = h / (q.size(1) / k.size(1));
      const auto head = [&](const Tensor& x, Index i) { return x[b][i].to(at::kDouble); };  // one at a time: memory
      const Tensor queries = head(dq, h).index_select(0, at::tensor(positions));
      outputs.push_back(attend(b, kv, positions, queries, head(dk, kv), head(dv, kv)));
    }
  }
  const Tensor o = at::stack(outputs).view({q.size(0), q.size(1), static_cast<Index>(positions.size()), q.size(3)});
  Exact exact{at::tensor(positions), o.detach(), Tensor(), {}};
  if (!backward) return exact;
  const at::Generator generator = at::detail::createCPUGenerator(1);
  const Tensor gradient = at::empty_like(exact.o).normal_(0, 1, generator).to(q.scalar_type());
  exact.gradients = torch::autograd::grad({o}, {dq, dk, dv}, {gradient.to(at::kDouble)});
  exact.dout = at::zeros_like(q, at::MemoryFormat::Contiguous).index_copy_(2, exact.rows, gradient);
  return exact;
}

RowsOfHead rows_of_plan(const PlanView& plan) {
  return [&plan](Index b, Index kv, const std::vector<Index>& positions, const Tensor& queries, const Tensor& keys,
                 const Tensor& values) {
    std::vector<Tensor> rows;
    for (const Index p : positions) {
      const Tensor query = queries[static_cast<Index>(rows.size())];
      rows.push_back(exact_row(query, keys, values, spans_of(plan, b, kv, p), plan.shape.pooling).output);
    }
    return at::stack(rows);
  };
}

// exp(w . y - |y|^2 / 2) over the largest of all rows, or elu + 1.
Tensor features_of(const Tensor& x, const Tensor& w) {
  if (!w.defined()) return at::elu(x) + 1;
  const Tensor y = x / std::pow(static_cast<double>(x.size(1)), 0.25);
  const Tensor logarithm = at::matmul(y, w.to(at::kDouble).t()) - y.pow(2).sum(1, true) / 2;
  return (logarithm - logarithm.max().detach()).exp();
}

RowsOfHead rows_by_features(const Tensor& features) {
  return [features](Index, Index, const std::vector<Index>& positions, const Tensor& queries, const Tensor& keys,
                    const Tensor& values) {
    const Tensor later = at::arange(keys.size(0)).unsqueeze(0) > at::tensor(positions).unsqueeze(1);
    const Tensor products = at::matmul(features_of(queries, features), features_of(keys, features).t());
    const Tensor weights = products.masked_fill(later, 0);
    return at::matmul(weights, values) / weights.sum(1, true);
  };
}

double forward_error_of(const Tensor& o, const Exact& exact) {
  return error_share({{o.index_select(2, exact.rows), exact.o}});
}

double backward_error_of(const Tensor& dq, const Tensor& dk, const Tensor& dv, const Exact& exact) {
  return error_share({{dq, exact.gradients[0]}, {dk, exact.gradients[1]}, {dv, exact.gradients[2]}});
}

}  // namespace

Tensor causal_sdpa(const Tensor& q, const Tensor& k, const Tensor& v) {
  const bool grouped = k.size(1) != q.size(1);
  return at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true, std::nullopt, grouped);
}

OpCheck check_op(const PlanOptions& options, const Tensor& q, const Tensor& k, const Tensor& v, int64_t rows,
                 bool backward) {
  const at::NoGradGuard no_gradient;
  const auto [o, lse, kept] = op_forward(options, q, k, v, /*keep_plan=*/true);
  const PlanView plan = plan_view(options, q, k, kept);
  const Exact exact = exact_rows(rows_of_plan(plan), q, k, v, rows, backward);
  OpCheck result;
  result.forward_error = forward_error_of(o, exact);
  result.attended_tokens = attended_tokens(plan);
  if (!backward) return result;
  const auto [dq, dk, dv, none] = op_backward(options, exact.dout, q, k, v, o, lse, kept);
  result.backward_error = backward_error_of(dq, dk, dv, exact);
  return result;
}

OpCheck check_linear(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& features, int64_t rows,
                     bool backward) {
  const at::NoGradGuard no_gradient;
  const auto given = features.defined() ? std::optional(features) : std::nullopt;
  const Tensor o = linear_op_forward(q, k, v, given);
  const Exact exact = exact_rows(rows_by_features(features), q, k, v, rows, backward);
  OpCheck result;
  result.forward_error = forward_error_of(o, exact);
  result.attended_tokens = static_cast<double>(q.size(2) + 1) / 2;
  if (!backward) return result;
  const auto [dq, dk, dv] = linear_op_backward(exact.dout, q, k, v, o, given);
  result.backward_error = backward_error_of(dq, dk, dv, exact);
  return result;
}

OpCheck check_causal_sdpa(const Tensor& q, const Tensor& k, const Tensor& v, int64_t rows, bool backward) {
  PlanOptions full;
  full.pattern = Pattern::kFull;
  const PlanView plan = plan_view(full, q, k, at::empty({0}, at::kInt));
  const Exact exact = exact_rows(rows_of_plan(plan), q, k, v, rows, backward);
  const at::AutoGradMode with_gradient(backward);
  const auto leaf = [&](const Tensor& x) { return x.detach().requires_grad_(backward); };
  const Tensor lq = leaf(q), lk = leaf(k), lv = leaf(v);
  const Tensor o = causal_sdpa(lq, lk, lv);
  OpCheck result;
  result.forward_error = forward_error_of(o.detach(), exact);
  result.attended_tokens = attended_tokens(plan);
  if (!backward) return result;
  const auto grads = torch::autograd::grad({o}, {lq, lk, lv}, {exact.dout});
  result.backward_error = backward_error_of(grads[0], grads[1], grads[2], exact);
  return result;
}

}  // namespace hsattn::lm
