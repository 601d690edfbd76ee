#include "lm/pretrained/held_mass.h"

#include <numeric>

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

// Shares fall from `first`, of the first position, and are known at the ends of equal runs of positions, so that their
// mean would be too small: the mean of what lies between, by trapezoids.
double average_from(double first, const std::vector<double>& shares) {
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0) + (first - shares.back()) / 2;
  return sum / static_cast<double>(shares.size());
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
    double held = 0;             // sum over heads and positions
    std::vector<double> shares;  // of all tokens so far, by positions: sums over heads
    for (std::size_t i = 0; i < positions.size(); ++i) {
      const auto place = static_cast<Index>(i);
      double attended = 0;
      for (Index head = 0; head < q.size(1); ++head) {
        for (const Span& span : spans_of(plan, 0, head / group, positions[i])) {
          if (span.kind == Span::Kind::kFar) continue;
          held += mass[head][place][span.end] - mass[head][place][span.begin];
          attended += static_cast<double>(span.end - span.begin);
        }
      }
      shares.push_back(attended / static_cast<double>(positions[i] + 1));
    }
    const auto heads = static_cast<double>(q.size(1));
    const double all = heads * static_cast<double>(std::ssize(positions));
    sums_[row] = sums_[row] + HeldShare{held / all, {shares.back() / heads, average_from(heads, shares) / heads}};
  }
  ++count_;
}

std::vector<HeldShare> HeldMass::shares() const {
  std::vector<HeldShare> shares;
  for (const HeldShare& sum : sums_) shares.push_back(sum / static_cast<double>(count_));
  return shares;
}

}  // namespace hsattn::lm
