#include "lm/model/transformer.h"

#include <algorithm>
#include <cmath>

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

constexpr double kInitialDeviation = 0.02;  // as GPT-2

}  // namespace

Transformer::Transformer(const ModelConfig& config, Index seed) : config_(config) {
  check_model_config(config);
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  const auto matrix = [&](Index outputs, Index inputs, double deviation) {
    return at::empty({outputs, inputs}, at::kFloat).normal_(0, deviation, generator).requires_grad_();
  };
  const auto ones = [&] { return at::ones({config.width}, at::kFloat).requires_grad_(); };
  // Each block adds twice to the residual stream; scaled so that its variance does not grow with depth, as GPT-2.
  const double residual = kInitialDeviation / std::sqrt(2.0 * static_cast<double>(config.layers));
  const Index head = config.head_dim(), width = config.width;
  embedding_ = matrix(config.vocabulary, width, kInitialDeviation);
  final_norm_ = ones();
  for (Index i = 0; i < config.layers; ++i) {
    Block block;
    block.attention_norm = ones();
    block.qkv = matrix((config.heads + 2 * config.key_heads()) * head, width, kInitialDeviation);
    if (config.taps > 1) block.taps = initial_taps(config.taps, config.query_key_channels(), generator);
    block.attention_out = matrix(width, config.heads * head, residual);
    block.mlp_norm = ones();
    block.gate_up = matrix(2 * config.inner(), width, kInitialDeviation);
    block.down = matrix(width, config.inner(), residual);
    blocks_.push_back(block);
  }
  // A row of a projection sums up a segment: its result is as large as a token.
  const AttentionOptions& o = config.attention;
  const double projection = 1 / std::sqrt(static_cast<double>(std::min(o.segment, o.longest)));
  for (Index i = 0; i < o.projections(config.layers); ++i)
    projections_.push_back(matrix(o.rank, o.longest, projection));
  if (o.has_pooler()) pooling_ = o.pooling;
  for (Index i = 0; o.has_pooler() && i < (config.pooler_per_layer ? config.layers : 1); ++i) {
    poolers_.push_back(initial_pooler(pooler_from_name(pooling_), head));
  }
  set_attention(o);
}

void Transformer::check_pooling(const AttentionOptions& attention) const {
  check(!attention.has_pooler() || attention.pooling == pooling_, "pooling is ", attention.pooling,
        ", whose parameters this model does not have; it was trained with pooling ",
        poolers_.empty() ? "mean or max" : pooling_);
}

Pooled Transformer::pooled(Index layer, const AttentionOptions& attention, const Tensor& k, const Tensor& v) const {
  check_pooling(attention);
  if (!attention.has_pooler()) return {};
  return pooled_by(attention, k, v, poolers_[poolers_.size() == 1 ? 0 : static_cast<std::size_t>(layer)]);
}

void Transformer::set_attention(const AttentionOptions& attention) {
  check_pooling(attention);
  config_.attention = attention;
  attention_tensors_.assign(blocks_.size(), {});
  if (!projections_.empty()) share_projections();
  for (std::size_t i = 0; !poolers_.empty() && i < blocks_.size(); ++i) {
    attention_tensors_[i].pooler = poolers_[poolers_.size() == 1 ? 0 : i];
  }
  draw_features(attention.feature_seed);
}

void Transformer::share_projections() {
  const std::size_t count = projections_.size(), layers = blocks_.size();
  for (std::size_t i = 0; i < layers; ++i) {
    const std::size_t keys = count == 1 ? 0 : count == layers ? i : 2 * i;
    attention_tensors_[i].project_keys = projections_[keys];
    attention_tensors_[i].project_values = projections_[count == 2 * layers ? keys + 1 : keys];
  }
}

void Transformer::draw_features(Index feature_seed) {
  AttentionOptions& options = config_.attention;
  const bool drawn = attention_tensors_[0].features.defined() && options.feature_seed == feature_seed;
  if (options.attention != "performer" || drawn) return;
  options.feature_seed = feature_seed;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    attention_tensors_[i].features = performer_features(options, static_cast<Index>(i), config_.head_dim());
  }
}

std::vector<std::pair<std::string, Tensor>> Transformer::parameters() const {
  std::vector<std::pair<std::string, Tensor>> all = {{"embedding", embedding_}, {"final_norm", final_norm_}};
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Block& b = blocks_[i];
    const std::string prefix = "blocks." + std::to_string(i) + ".";
    all.insert(all.end(), {{prefix + "attention_norm", b.attention_norm},
                           {prefix + "qkv", b.qkv},
                           {prefix + "attention_out", b.attention_out},
                           {prefix + "mlp_norm", b.mlp_norm},
                           {prefix + "gate_up", b.gate_up},
                           {prefix + "down", b.down}});
    if (b.taps.defined()) all.emplace_back(prefix + "taps", b.taps);
    if (config_.pooler_per_layer && !poolers_.empty()) all.emplace_back(prefix + "pooler", poolers_[i]);
  }
  if (!config_.pooler_per_layer && !poolers_.empty()) all.emplace_back("pooler", poolers_[0]);
  for (std::size_t i = 0; i < projections_.size(); ++i) all.emplace_back(concat("projections.", i), projections_[i]);
  return all;
}

Tensor Transformer::attention_part(Index layer, const Tensor& x) {
  const Block& block = blocks_[static_cast<std::size_t>(layer)];
  const Index heads = config_.heads, kv_heads = config_.key_heads(), batch = x.size(0), tokens = x.size(1);
  const Tensor qkv = at::linear(rms_norm(x, block.attention_norm), block.qkv);
  Tensor qk = qkv.slice(2, 0, config_.query_key_channels());
  if (block.taps.defined()) qk = mix_in_time(qk, block.taps);
  qk = rotate(qk.view({batch, tokens, heads + kv_heads, config_.head_dim()}), rotary_).transpose(1, 2);
  const Tensor q = qk.slice(1, 0, heads), k = qk.slice(1, heads);
  const Tensor v =
      qkv.slice(2, config_.query_key_channels()).view({batch, tokens, kv_heads, config_.head_dim()}).transpose(1, 2);
  if (probe_) probe_(layer, q, k, v);
  const Tensor o = attend(config_.attention.of_layer(layer), q, k, v, statistics_,
                          attention_tensors_[static_cast<std::size_t>(layer)]);
  return at::linear(o.transpose(1, 2).reshape({batch, tokens, -1}), block.attention_out);
}

Tensor Transformer::run_block(Index layer, const Tensor& x) {
  const Block& block = blocks_[static_cast<std::size_t>(layer)];
  const Tensor y = x + attention_part(layer, x);
  return y + at::linear(swiglu(at::linear(rms_norm(y, block.mlp_norm), block.gate_up)), block.down);
}

Tensor Transformer::hidden(const Tensor& tokens) {
  if (!rotary_.cos.defined() || rotary_.cos.size(0) < tokens.size(1)) {
    rotary_ = rotary_table(tokens.size(1), config_.head_dim(), config_.rope_base);
  }
  Tensor x = at::embedding(embedding_, tokens);
  for (Index layer = 0; layer < config_.layers; ++layer) {
    if (checkpointing_ && at::GradMode::is_enabled()) {
      x = recompute_in_backward([this, layer](const Tensor& in) { return run_block(layer, in); }, x);
    } else {
      x = run_block(layer, x);
    }
  }
  return rms_norm(x, final_norm_).reshape({-1, config_.width});
}

Tensor Transformer::loss(const Tensor& tokens, const Tensor& targets, const Tensor& rows) {
  const Tensor all = hidden(tokens), next = targets.reshape({-1});
  if (!rows.defined()) return chunked_cross_entropy(all, embedding_, next);
  return chunked_cross_entropy(all.index_select(0, rows), embedding_, next.index_select(0, rows));
}

}  // namespace hsattn::lm
