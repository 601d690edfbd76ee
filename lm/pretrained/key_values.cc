#include "lm/pretrained/key_values.h"

#include "lm/model/attention.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

Tensor repeat_heads(const Tensor& x, Index heads) {
  if (x.size(1) == heads) return x;
  return x.unsqueeze(2)
      .expand({x.size(0), x.size(1), heads / x.size(1), x.size(2), x.size(3)})
      .reshape({x.size(0), heads, x.size(2), x.size(3)});
}

// Attention of torch: the last queries.size(2) of the keys' tokens ask.
Tensor torch_attention(bool fused, const Tensor& q, const Tensor& k, const Tensor& v) {
  const Index queries = q.size(2), keys = k.size(2);
  const Tensor all_k = repeat_heads(k, q.size(1)), all_v = repeat_heads(v, q.size(1));
  std::optional<Tensor> visible;
  if (queries > 1 && queries < keys) visible = at::ones({queries, keys}, at::kBool).tril_(keys - queries);
  if (fused) return at::scaled_dot_product_attention(q, all_k, all_v, visible, 0.0, /*is_causal=*/queries == keys);
  Tensor scores = at::matmul(q, all_k.transpose(-2, -1)) / std::sqrt(static_cast<double>(q.size(3)));
  scores.masked_fill_(at::ones({queries, keys}, at::kBool).triu_(keys - queries + 1), -INFINITY);
  return at::matmul(at::softmax(scores, -1), all_v);
}

}  // namespace

KeyValues::KeyValues(std::vector<AttentionOptions> attention) {
  for (AttentionOptions& options : attention) layers_.push_back({std::move(options), {}, {}});
}

Tensor KeyValues::attend(Index layer, const Tensor& q, const Tensor& k, const Tensor& v) {
  Layer& here = layers_[static_cast<std::size_t>(layer)];
  append(here, k, v);
  const Index end = tokens_ + k.size(2);
  const Tensor keys = here.k.slice(2, 0, end), values = here.v.slice(2, 0, end);
  if (!here.attention.ours()) return torch_attention(here.attention.attention == "sdpa", q, keys, values);
  return std::get<0>(op_forward(here.attention.plan_options(), q, keys, values, /*keep_plan=*/false));
}

void KeyValues::append(Layer& layer, const Tensor& k, const Tensor& v) const {
  const Index end = tokens_ + k.size(2), room = layer.k.defined() ? layer.k.size(2) : 0;
  if (room < end) {
    const Index more = std::max({end, reserved_, 2 * room});
    for (Tensor* old : {&layer.k, &layer.v}) {
      const Tensor grown = at::empty({1, k.size(1), more, k.size(3)}, k.options());
      if (tokens_ > 0) grown.slice(2, 0, tokens_).copy_(old->slice(2, 0, tokens_));
      *old = grown;
    }
  }
  layer.k.slice(2, tokens_, end).copy_(k);
  layer.v.slice(2, tokens_, end).copy_(v);
}

}  // namespace hsattn::lm
