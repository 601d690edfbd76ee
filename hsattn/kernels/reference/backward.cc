#include <cmath>
#include <limits>

#include "hsattn/kernels/reference/reference.h"

namespace hsattn::reference {
namespace {

void add_scaled(std::span<double> to, double factor, std::span<const double> from) {
  for (std::size_t c = 0; c < to.size(); ++c) to[c] += factor * from[c];
}

// Gradients of one row. With p = softmax(scale q.k + bias) and o = sum p v:
//   dv_j += p_j dout      ds_j = p_j (dout.v_j - dout.o)      dq += scale ds_j k_j      dk_j += scale ds_j q
void backward_row(std::span<const double> q, std::span<const double> dout, double scale, const std::vector<Node>& seen,
                  const Pyramid& keys, const Pyramid& values, std::span<double> dq, Pyramid& dkeys, Pyramid& dvalues) {
  const RowSoftmax softmax = softmax_of_row(q, scale, seen, keys);
  if (softmax.lse == -std::numeric_limits<double>::infinity()) return;  // sees nothing: o is constant
  std::vector<double> dp(seen.size());
  double dout_o = 0;
  for (std::size_t j = 0; j < seen.size(); ++j) {
    dp[j] = dot(dout, values.row(seen[j]));
    dout_o += softmax.weight[j] * dp[j];
  }
  for (std::size_t j = 0; j < seen.size(); ++j) {
    const double ds = softmax.weight[j] * (dp[j] - dout_o);
    add_scaled(dvalues.row(seen[j]), softmax.weight[j], dout);
    add_scaled(dkeys.row(seen[j]), scale * ds, q);
    add_scaled(dq, scale * ds, keys.row(seen[j]));
  }
}

void backward_kv_head(const AttentionInputs& in, double scale, const PlanView& plan, const ConstView& dout_view,
                      const AttentionGradients& grads, Index batch, Index kv_head) {
  const Index group = in.q.heads / in.k.heads, block = plan.shape.block;
  const auto [keys, values] = pyramids_of(in, plan.shape, batch, kv_head);
  Pyramid dkeys = zero_pyramid(in.k.tokens, in.k.dim, block), dvalues = dkeys;
  for (Index head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const Matrix q = load_head(in.q, batch, head), dout = load_head(dout_view, batch, head);
    Matrix dq(q.count, q.dim);
    for (Index i = 0; i < q.count; ++i) {
      const std::vector<Node> seen = seen_by(plan, batch, kv_head, i);
      backward_row(q.row(i), dout.row(i), scale, seen, keys, values, dq.row(i), dkeys, dvalues);
    }
    store_head(dq, grads.dq, batch, head);
  }
  if (!in.pooled) {
    spread_gradient(dkeys, keys);
    spread_gradient(dvalues, values);
  } else if (grads.dpooled) {
    store_head(nodes_of(dkeys), grads.dpooled->k, batch, kv_head);
    store_head(nodes_of(dvalues), grads.dpooled->v, batch, kv_head);
  }
  store_head(dkeys.tokens, grads.dk, batch, kv_head);
  store_head(dvalues.tokens, grads.dv, batch, kv_head);
}

}  // namespace

void backward(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionSaved& saved,
              const AttentionGradients& grads, Executor& executor) {
  executor.run(in.k.batch * in.k.heads, [&](Index task) {
    backward_kv_head(in, scale, plan, saved.dout, grads, task / in.k.heads, task % in.k.heads);
  });
}

}  // namespace hsattn::reference
