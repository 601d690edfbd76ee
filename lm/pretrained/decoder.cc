#include "lm/pretrained/decoder.h"

#include <functional>

#include "lm/data/files.h"
#include "lm/pretrained/row_kernels.h"
#include "torch/csrc/stable/ops.h"

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

// body(T*) for the C++ type of x.
template <class Body>
void with_data(const Tensor& x, const Body& body) {
  if (x.scalar_type() == at::kFloat) {
    body(x.mutable_data_ptr<float>());
  } else {
    body(static_cast<BFloat16*>(x.mutable_data_ptr()));
  }
}

// body(first, end) for parts of [0, count), at least `grain` of them each, on torch's threads. Not at::parallel_for,
// which is compiled where it is called, and runs on one thread but with OpenMP's flags.
void in_parallel(Index count, Index grain, const std::function<void(Index, Index)>& body) {
  torch::stable::parallel_for(0, count, grain, body);
}

// out [1, outputs] = x [1, inputs] of bfloat16 times the rows of `weight`.
void write_product_of_one_row(const Tensor& x, const Tensor& weight, const Tensor& out) {
  constexpr Index kGrain = 64;  // rows that are worth a thread's start
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const Tensor wide = x.to(at::kFloat).contiguous();
  const auto* matrix = static_cast<const BFloat16*>(weight.const_data_ptr());
  auto* y = static_cast<BFloat16*>(out.mutable_data_ptr());
  const auto* in = wide.const_data_ptr<float>();
  in_parallel(outputs, kGrain, [&](Index first, Index end) { vector_product(matrix, inputs, in, first, end, y); });
}

Tensor product_of_one_row(const Tensor& x, const Tensor& weight) {
  const Tensor y = at::empty({1, weight.size(0)}, x.options());
  write_product_of_one_row(x, weight, y);
  return y;
}

bool one_row_of_bf16(const Tensor& x) { return x.size(0) == 1 && x.scalar_type() == at::kBFloat16; }

// body(first, end) for rows of activations that fit the cache, as the results of one product are the next one's inputs;
// and what is this small is not asked of the system anew each time (a prompt of 8192 tokens in bf16 on a Xeon: a
// seventh of the time went into fresh pages).
template <class Body>
void for_chunks(Index rows, const Body& body) {
  constexpr Index kChunk = 1024;
  for (Index first = 0; first < rows; first += kChunk) body(first, std::min(first + kChunk, rows));
}

constexpr Index kRowsForThread = 16;

}  // namespace

void Decoder::Linear::write(const Tensor& x, const Tensor& out) const {
  if (one_row_of_bf16(x)) {
    write_product_of_one_row(x, weight, out);
  } else {
    Tensor target = out;
    at::mm_out(target, x, weight.t());
  }
  if (bias) out.add_(*bias);
}

void Decoder::Linear::add(const Tensor& x, const Tensor& out) const {
  if (one_row_of_bf16(x)) {
    out.add_(product_of_one_row(x, weight));
  } else {
    out.addmm_(x, weight.t());
  }
  if (bias) out.add_(*bias);
}

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
  const Tensor y = at::empty_like(x);
  with_data(x, [&]<class T>(const T* from) {
    const auto* w = static_cast<const T*>(weight.const_data_ptr());
    auto* to = static_cast<T*>(y.mutable_data_ptr());
    const Index width = x.size(1);
    in_parallel(x.size(0), kRowsForThread, [&](Index first, Index end) {
      normalize_rows(from + first * width, w, config_.norm_epsilon, end - first, width, to + first * width);
    });
  });
  return y;
}

void Decoder::place(const Layer& layer, const RotaryTable& rotary, const Tensor& qkv) const {
  const Index heads = config_.heads, kv_heads = config_.kv_heads, dim = config_.head_dim, row = qkv.stride(0);
  const auto* cos = rotary.cos.const_data_ptr<float>();
  const auto* sin = rotary.sin.const_data_ptr<float>();
  with_data(qkv, [&]<class T>(T* all) {
    const auto normalize = [&](T* x, const Tensor& weight, Index count) {
      normalize_rows(x, static_cast<const T*>(weight.const_data_ptr()), config_.norm_epsilon, count, dim, x);
    };
    in_parallel(qkv.size(0), kRowsForThread, [&](Index first, Index end) {
      for (Index i = first; i < end; ++i) {
        T* q = all + i * row;
        if (config_.head_norms)
          normalize(q, layer.query_norm, heads), normalize(q + heads * dim, layer.key_norm, kv_heads);
        rotate_rows(q, cos + i * (dim / 2), sin + i * (dim / 2), heads + kv_heads, dim);
      }
    });
  });
}

Tensor Decoder::gated(const Tensor& gate_up) const {
  const Tensor y = at::empty({gate_up.size(0), config_.inner}, gate_up.options());
  with_data(gate_up, [&]<class T>(const T* from) {
    auto* to = static_cast<T*>(y.mutable_data_ptr());
    in_parallel(gate_up.size(0), kRowsForThread, [&](Index first, Index end) {
      gate_rows(from + 2 * first * config_.inner, end - first, config_.inner, to + first * config_.inner);
    });
  });
  return y;
}

Tensor Decoder::attention_part(Index index, const Tensor& x, const RotaryTable& rotary, KeyValues& past) const {
  const Layer& layer = layers_[static_cast<std::size_t>(index)];
  const Index n = x.size(0), heads = config_.heads, kv_heads = config_.kv_heads, dim = config_.head_dim;
  const Tensor all = at::empty({n, (heads + 2 * kv_heads) * dim}, x.options());
  for_chunks(n, [&](Index first, Index end) {
    const Tensor rows = all.slice(0, first, end);
    layer.qkv.write(norm(x.slice(0, first, end), layer.attention_norm), rows);
    place(layer, {rotary.cos.slice(0, first, end), rotary.sin.slice(0, first, end)}, rows);
  });
  const Tensor qkv = all.view({1, n, heads + 2 * kv_heads, dim}).transpose(1, 2);
  const Tensor q = qkv.slice(1, 0, heads), k = qkv.slice(1, heads, heads + kv_heads),
               v = qkv.slice(1, heads + kv_heads);
  past.show({index, x, q, k, v, layer.attention_out.weight});
  return past.attend(index, q, k, v).transpose(1, 2).reshape({n, heads * dim});
}

Tensor Decoder::hidden(const Tensor& tokens, KeyValues& past, Index length, const std::atomic<bool>* stop) {
  const c10::InferenceMode no_gradient;
  const Index n = tokens.size(0), before = past.tokens();
  const RotaryTable rotary = rotary_.table(before, n, std::max(before + n, length));
  const Tensor x = at::embedding(embedding_, tokens);
  for (Index i = 0; i < config_.layers; ++i) {
    if (stop != nullptr && *stop) return {};
    const Layer& layer = layers_[static_cast<std::size_t>(i)];
    const Tensor attended = attention_part(i, x, rotary, past);
    for_chunks(n, [&](Index first, Index end) {
      const Tensor rows = x.slice(0, first, end), gate_up = at::empty({end - first, 2 * config_.inner}, x.options());
      layer.attention_out.add(attended.slice(0, first, end), rows);
      layer.gate_up.write(norm(rows, layer.mlp_norm), gate_up);
      layer.down.add(gated(gate_up), rows);
    });
  }
  past.advance(n);
  return norm(x, final_norm_);
}

Tensor Decoder::logits(const Tensor& hidden) const {
  const c10::InferenceMode no_gradient;
  const Tensor y = one_row_of_bf16(hidden) ? product_of_one_row(hidden, output_) : at::mm(hidden, output_.t());
  return y.to(at::kFloat);
}

}  // namespace hsattn::lm
