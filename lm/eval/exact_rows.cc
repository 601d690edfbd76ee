#include "lm/eval/exact_rows.h"

#include <cmath>

#include "hsattn/base/math.h"
#include "lm/model/ops.h"

namespace hsattn::lm {
namespace {

// Where the node of a far span lies among those of all levels.
Index row_of_node(const Span& span, Index keys, Index block) {
  Index row = span.begin / (block << span.level);
  for (Index level = 0; level < span.level; ++level) row += ceil_div(keys, block << level);
  return row;
}

}  // namespace

ExactRow exact_row(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const std::vector<Span>& spans,
                   Pooling pooling, const ExactNodes* nodes) {
  ExactRow row;
  std::vector<int64_t> entry_of_node, node_rows;  // of far spans
  std::vector<int64_t> tokens, entry_of_token;    // each attended token and the entry that it is or is pooled into
  std::vector<double> counts;                     // tokens behind each entry
  for (const Span& span : spans) {
    row.first.push_back(static_cast<Index>(counts.size()));
    const bool pooled = span.kind == Span::Kind::kFar;
    if (pooled) counts.push_back(static_cast<double>(span.size()));
    if (pooled && nodes != nullptr) {
      entry_of_node.push_back(row.first.back());
      node_rows.push_back(row_of_node(span, k.size(0), nodes->block));
    }
    for (Index token = span.begin; token < span.end; ++token) {
      if (!pooled) counts.push_back(1);
      tokens.push_back(token);
      entry_of_token.push_back(static_cast<int64_t>(counts.size()) - 1);
    }
  }
  if (tokens.empty()) {
    row.output = at::zeros_like(q);
    return row;
  }
  const auto entries = static_cast<int64_t>(counts.size());
  const at::Tensor index = at::tensor(tokens), entry = at::tensor(entry_of_token),
                   count = at::tensor(counts, at::kDouble);
  const auto pool = [&](const at::Tensor& x, const at::Tensor& made) {
    const at::Tensor sums = at::zeros({entries, x.size(1)}, x.options()), rows = x.index_select(0, index);
    if (pooling == Pooling::kMax) return sums.index_reduce(0, entry, rows, "amax", /*include_self=*/false);
    at::Tensor means = sums.index_add(0, entry, rows) / count.unsqueeze(1);
    if (node_rows.empty()) return means;
    return means.index_copy(0, at::tensor(entry_of_node), made.index_select(0, at::tensor(node_rows)));
  };
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(0)));
  const at::Tensor none;
  row.probabilities = at::softmax(scale * at::mv(pool(k, nodes ? nodes->k : none), q) + count.log(), 0);
  row.output = at::mv(pool(v, nodes ? nodes->v : none).t(), row.probabilities);
  return row;
}

PlanView plan_view(const PlanOptions& options, const at::Tensor& q, const at::Tensor& k, const at::Tensor& kept) {
  const PlanShape shape = plan_shape(options, type_of(q), q.size(0), k.size(1), q.size(2), k.size(2));
  return {shape, kept.numel() == 0 ? nullptr : kept.const_data_ptr<int32_t>()};
}

}  // namespace hsattn::lm
