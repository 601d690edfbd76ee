#include "lm/pretrained/held_mass.h"

#include "lm/eval/exact_rows.h"
#include "lm/model/attention.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

// [heads, positions, n + 1] probability before each token, in double: sums over runs of tokens are differences.
Tensor cumulated(const Tensor& q, const Tensor& k, const std::vector<Index>& positions) {
  const Index n = k.size(2), group = q.size(1) / k.size(1);
  const Tensor rows = at::tensor(positions), queries = q[0].index_select(1, rows).to(at::kDouble);
  const Tensor keys = k[0].to(at::kDouble).repeat_interleave(group, 0);
  Tensor scores = at::matmul(queries, keys.transpose(1, 2)) / std::sqrt(static_cast<double>(q.size(3)));
  const Tensor later = at::arange(n).unsqueeze(0) > rows.unsqueeze(1);
  scores.masked_fill_(later.unsqueeze(0), -INFINITY);
  return at::constant_pad_nd(at::softmax(scores, -1).cumsum(-1), {1, 0});
}

}  // namespace

HeldMass::HeldMass(std::vector<std::vector<AttentionOptions>> rows, Index positions)
    : rows_(std::move(rows)), positions_(positions), sums_(rows_.size(), 0) {}

void HeldMass::add(Index layer, const Tensor& q, const Tensor& k) {
  const std::vector<Index> positions = even_positions(q.size(2), positions_);
  const Tensor before = cumulated(q, k, positions);
  const auto mass = before.accessor<double, 3>();
  const Index group = q.size(1) / k.size(1);
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    const AttentionOptions& options = rows_[row][static_cast<std::size_t>(layer)];
    if (!options.ours()) {
      sums_[row] += 1;
      continue;
    }
    const Tensor kept = plan_of(options.plan_options(), q, k);
    const PlanView plan = plan_view(options.plan_options(), q, k, kept);
    double sum = 0;
    for (std::size_t i = 0; i < positions.size(); ++i) {
      for (Index head = 0; head < q.size(1); ++head) {
        for (const Span& span : spans_of(plan, 0, head / group, positions[i])) {
          if (span.kind == Span::Kind::kFar) continue;
          const auto place = static_cast<Index>(i);
          sum += mass[head][place][span.end] - mass[head][place][span.begin];
        }
      }
    }
    sums_[row] += sum / static_cast<double>(std::ssize(positions) * q.size(1));
  }
  ++count_;
}

std::vector<double> HeldMass::shares() const {
  std::vector<double> shares;
  for (const double sum : sums_) shares.push_back(sum / static_cast<double>(count_));
  return shares;
}

}  // namespace hsattn::lm
