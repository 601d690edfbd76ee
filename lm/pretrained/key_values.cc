#include "lm/pretrained/key_values.h"

#include "lm/model/ops.h"
#include "torch_ops/executor.h"

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

// Of x [1, heads, tokens, dim].
ConstView view_of(const Tensor& x) {
  return {x.const_data_ptr(), type_of(x),  x.size(0),   x.size(1),  x.size(2),
          x.size(3),          x.stride(0), x.stride(1), x.stride(2)};
}
View mutable_view_of(const Tensor& x) {
  return {x.mutable_data_ptr(), type_of(x),  x.size(0),  x.size(1), x.size(2), x.size(3),
          x.stride(0),          x.stride(1), x.stride(2)};
}

}  // namespace

KeyValues::KeyValues(std::vector<AttentionOptions> attention) {
  for (AttentionOptions& options : attention) layers_.push_back({std::move(options), {}, {}, {}});
}

void KeyValues::crop(Index tokens) {
  tokens_ = std::min(tokens, tokens_);
  for (Layer& layer : layers_) {  // one that was interrupted may hold more than the others
    if (layer.cache && layer.cache->length(0) > tokens_) layer.cache->crop(0, tokens_);
  }
}

Index KeyValues::bytes() const {
  Index bytes = 0;
  for (const Layer& layer : layers_) {
    if (layer.cache) bytes += layer.cache->bytes();
    if (layer.k.defined()) bytes += static_cast<Index>(layer.k.nbytes() + layer.v.nbytes());
  }
  return bytes;
}

Tensor KeyValues::attend(Index layer, const Tensor& q, const Tensor& k, const Tensor& v) {
  Layer& here = layers_[static_cast<std::size_t>(layer)];
  if (!here.attention.ours()) {
    append(here, k, v);
    const Index end = tokens_ + k.size(2);
    return torch_attention(here.attention.attention == "sdpa", q, here.k.slice(2, 0, end), here.v.slice(2, 0, end));
  }
  torch_ops::TorchExecutor executor;
  if (!here.cache) {
    here.cache.emplace(CacheOptions{
        .kv_heads = k.size(1), .dim = k.size(3), .dtype = type_of(k), .plan = here.attention.plan_options()});
  }
  here.cache->append(view_of(k), view_of(v), executor);
  const Tensor o = at::empty({1, q.size(2), q.size(1), q.size(3)}, q.options()).transpose(1, 2);
  here.cache->attend(view_of(q), std::nullopt, {mutable_view_of(o), nullptr}, executor);
  return o;
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
