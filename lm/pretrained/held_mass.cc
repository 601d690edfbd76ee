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
    : rows_(std::move(rows)), positions_(positions), sums_(rows_.size()) {}

void HeldMass::add(Index layer, const Tensor& q, const Tensor& k) {
  const std::vector<Index> positions = even_positions(q.size(2), positions_);
  const Tensor before = cumulated(q, k, positions);
  const auto mass = before.accessor<double, 3>();
  const Index group = q.size(1) / k.size(1);
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    const AttentionOptions& options = rows_[row][static_cast<std::size_t>(layer)];
    if (!options.ours()) {
      sums_[row] = sums_[row] + HeldShare{1, {1, 1}};
      continue;
    }
    const Tensor kept = plan_of(options.plan_options(), q, k);
    const PlanView plan = plan_view(options.plan_options(), q, k, kept);
    HeldShare sum;  // over heads and positions; `last` over heads alone
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const auto place = static_cast<Index>(i);
      double attended = 0;
      for (Index head = 0; head < q.size(1); ++head) {
        for (const Span& span : spans_of(plan, 0, head / group, positions[i])) {
          if (span.kind == Span::Kind::kFar) continue;
          sum.mass += mass[head][place][span.end] - mass[head][place][span.begin];
          attended += static_cast<double>(span.end - span.begin);
        }
      }
      sum.attended.last = attended / static_cast<double>(positions[i] + 1);
      sum.attended.average += sum.attended.last;
    }
    const auto heads = static_cast<double>(q.size(1)), all = heads * static_cast<double>(std::ssize(positions));
    sums_[row] = sums_[row] + HeldShare{sum.mass / all, {sum.attended.last / heads, sum.attended.average / all}};
  }
  ++count_;
}

std::vector<HeldShare> HeldMass::shares() const {
  std::vector<HeldShare> shares;
  for (const HeldShare& sum : sums_) shares.push_back(sum / static_cast<double>(count_));
  return shares;
}

}  // namespace hsattn::lm
