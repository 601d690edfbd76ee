#include "lm/pretrained/decoder.h"

#include "lm/data/files.h"
#include "lm/pretrained/vector_product.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

// Reads tensors by their names in a folder.
class Loader {
 public:
  Loader(const Weights& weights, at::ScalarType type) : weights_(weights), type_(type) {}

  Tensor tensor(const std::string& name, at::IntArrayRef shape) const {
    Tensor t = at::empty(shape, type_);
    weights_.copy(name, t);
    return t;
  }

  // Matrices with the same inputs, one below the other: [sum of outputs, inputs].
  struct Part {
    const char* name;
    Index outputs;
  };
  std::pair<Tensor, std::optional<Tensor>> stacked(const std::string& prefix, std::initializer_list<Part> parts,
                                                   Index inputs, bool bias) const {
    Index outputs = 0, row = 0;
    for (const Part& part : parts) outputs += part.outputs;
    const Tensor matrix = at::empty({outputs, inputs}, type_);
    std::optional<Tensor> offsets;
    if (bias) offsets = at::empty({outputs}, type_);
    for (const Part& part : parts) {
      weights_.copy(prefix + part.name + ".weight", matrix.slice(0, row, row + part.outputs));
      if (bias) weights_.copy(prefix + part.name + ".bias", offsets->slice(0, row, row + part.outputs));
      row += part.outputs;
    }
    return {matrix, offsets};
  }

 private:
  const Weights& weights_;
  at::ScalarType type_;
};

// x [1, inputs] of bfloat16 times the rows of `weight`.
Tensor product_of_one_row(const Tensor& x, const Tensor& weight) {
  constexpr int64_t kGrain = 64;  // rows that are worth a thread's start
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const Tensor wide = x.to(at::kFloat).contiguous(), y = at::empty({1, outputs}, x.options());
  const auto* matrix = reinterpret_cast<const std::uint16_t*>(weight.const_data_ptr());
  auto* out = reinterpret_cast<std::uint16_t*>(y.mutable_data_ptr());
  const auto* in = wide.const_data_ptr<float>();
  at::parallel_for(0, outputs, kGrain,
                   [&](int64_t first, int64_t end) { vector_product(matrix, inputs, in, first, end, out); });
  return y;
}

Tensor multiply(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (x.size(0) != 1 || x.scalar_type() != at::kBFloat16) return at::linear(x, weight, bias);
  const Tensor y = product_of_one_row(x, weight);
  return bias ? y + *bias : y;
}

}  // namespace

Tensor Decoder::Linear::operator()(const Tensor& x) const { return multiply(x, weight, bias); }

Decoder::Decoder(const PretrainedConfig& config, const Weights& weights, at::ScalarType type)
    : config_(config), rotary_(config) {
  const PretrainedConfig& c = config_;
  const Loader load(weights, type);
  const auto read = [&](const auto&... arguments) {
    auto [matrix, bias] = load.stacked(arguments...);
    return Linear{matrix, bias};
  };
  embedding_ = load.tensor("model.embed_tokens.weight", {c.vocabulary, c.width});
  final_norm_ = load.tensor("model.norm.weight", {c.width});
  const Index queries = c.heads * c.head_dim, keys = c.kv_heads * c.head_dim;
  using Parts = std::initializer_list<Loader::Part>;
  for (Index i = 0; i < c.layers; ++i) {
    const std::string prefix = concat("model.layers.", i, ".");
    Layer layer;
    layer.attention_norm = load.tensor(prefix + "input_layernorm.weight", {c.width});
    layer.mlp_norm = load.tensor(prefix + "post_attention_layernorm.weight", {c.width});
    if (c.head_norms) {
      layer.query_norm = load.tensor(prefix + "self_attn.q_norm.weight", {c.head_dim});
      layer.key_norm = load.tensor(prefix + "self_attn.k_norm.weight", {c.head_dim});
    }
    layer.qkv = read(prefix + "self_attn.", Parts{{"q_proj", queries}, {"k_proj", keys}, {"v_proj", keys}}, c.width,
                     c.qkv_bias);
    layer.attention_out = read(prefix + "self_attn.", Parts{{"o_proj", c.width}}, queries, c.output_bias);
    layer.gate_up = read(prefix + "mlp.", Parts{{"gate_proj", c.inner}, {"up_proj", c.inner}}, c.width, c.mlp_bias);
    layer.down = read(prefix + "mlp.", Parts{{"down_proj", c.width}}, c.inner, c.mlp_bias);
    layers_.push_back(std::move(layer));
  }
  output_ = c.tied ? embedding_ : load.tensor("lm_head.weight", {c.vocabulary, c.width});
  for (const std::string& name : weights.unused()) {
    if (c.tied && name == "lm_head.weight") continue;  // saved all the same by some
    throw Unsupported(concat("the weights hold ", name, ", which a model of the type ", c.family, " does not have"));
  }
}

Tensor Decoder::norm(const Tensor& x, const Tensor& weight) const {
  return at::rms_norm(x, {x.size(-1)}, weight, config_.norm_epsilon);
}

Tensor Decoder::attention_part(Index index, const Tensor& x, const RotaryTable& rotary, KeyValues& past) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const Index n = x.size(0), heads = config_.heads, kv_heads = config_.kv_heads;
  const Tensor qkv = layer.qkv(norm(x, layer.attention_norm)).view({1, n, heads + 2 * kv_heads, config_.head_dim});
  Tensor q = qkv.slice(2, 0, heads), k = qkv.slice(2, heads, heads + kv_heads);
  if (config_.head_norms) q = norm(q, layer.query_norm), k = norm(k, layer.key_norm);
  q = rotate(q, rotary), k = rotate(k, rotary);
  const Tensor v = qkv.slice(2, heads + kv_heads);
  const Tensor o = past.attend(index, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2));
  return layer.attention_out(o.transpose(1, 2).reshape({n, -1}));
}

Tensor Decoder::hidden(const Tensor& tokens, KeyValues& past, Index length, const std::atomic<bool>* stop) {
  const c10::InferenceMode no_gradient;
  const Index n = tokens.size(0), first = past.tokens();
  const RotaryTable rotary = rotary_.table(first, n, std::max(first + n, length));
  Tensor x = at::embedding(embedding_, tokens);
  for (Index i = 0; i < config_.layers; ++i) {
    if (stop != nullptr && *stop) return {};
    const Layer& layer = layers_[static_cast<std::size_t>(i)];
    x = x + attention_part(i, x, rotary, past);
    x = x + layer.down(swiglu(layer.gate_up(norm(x, layer.mlp_norm))));
  }
  past.advance(n);
  return norm(x, final_norm_);
}

Tensor Decoder::logits(const Tensor& hidden) const {
  const c10::InferenceMode no_gradient;
  return multiply(hidden, output_, std::nullopt).to(at::kFloat);
}

}  // namespace hsattn::lm
