#include "lm/model/config.h"

#include "hsattn/base/error.h"
#include "hsattn/pooling/pooler.h"

namespace hsattn::lm {

void ModelConfig::visit(OptionVisitor& option) {
  option("layers", layers, "blocks of attention and SwiGLU");
  option("width", width, "size of the residual stream");
  option("heads", heads, "query heads");
  option("kv_heads", kv_heads, "key and value heads, a divisor of heads; 0: as many as heads");
  option("hidden", hidden, "width inside the SwiGLU; 0: 8/3 of the width, rounded up to 64");
  option("rope_base", rope_base, "base of the rotary frequencies");
  option("taps", taps,
         "tokens that a causal convolution of queries and keys spans, each channel by itself; 0 or 1: none");
  option("vocabulary", vocabulary,
         "tokens that the embedding knows, 256 for bytes; when training, 0: as the data says");
  option("tokenizer", tokenizer, "fingerprint of the tokenizer, as the data says; empty: bytes");
  attention.visit(option);
  option("pooler_per_layer", pooler_per_layer, "pooling with parameters: some for each layer instead of one for all");
}

Index ModelConfig::pooler_parameters() const {
  if (!attention.has_pooler()) return 0;
  return pooler_rows(pooler_from_name(attention.pooling), head_dim()) * head_dim() * (pooler_per_layer ? layers : 1);
}

Index ModelConfig::parameters() const {
  const Index attention_part = width * head_dim() * (heads + 2 * key_heads()) + width * width;
  const Index projections = attention.projections(layers) * attention.rank * attention.longest;
  return projections + vocabulary * width + width + layers * (attention_part + 3 * width * inner() + 2 * width) +
         layers * (taps > 1 ? taps : 0) * query_key_channels() + pooler_parameters();
}

void check_model_config(const ModelConfig& c) {
  check(c.layers >= 1 && c.layers <= 1000, "layers is ", c.layers, "; 1 to 1000 is right");
  check(c.width >= 8 && c.width <= 65536, "width is ", c.width, "; 8 to 65536 is right");
  check(c.heads >= 1 && c.width % c.heads == 0, "heads is ", c.heads, "; a divisor of width, ", c.width, ", is right");
  check(c.head_dim() >= 8 && c.head_dim() <= 256 && c.head_dim() % 2 == 0, "width / heads is ", c.head_dim(),
        "; an even head dimension of 8 to 256 is right");
  check(c.key_heads() >= 1 && c.heads % c.key_heads() == 0, "kv_heads is ", c.kv_heads, "; a divisor of heads, ",
        c.heads, ", is right");
  check(c.hidden >= 0 && c.hidden <= 1 << 20, "hidden is ", c.hidden, "; 0 to 1048576 is right");
  check(c.taps >= 0 && c.taps <= 64, "taps is ", c.taps, "; 0 to 64 is right");
  check(c.vocabulary >= 2 && c.vocabulary <= 1 << 20, "vocabulary is ", c.vocabulary, "; 2 to 1048576 is right");
  check(c.rope_base > 1, "rope_base is ", c.rope_base, "; more than 1 is right");
  check_attention_options(c.attention);
  const std::vector<Index>& budgets = c.attention.hsa.head_top_k;
  check(budgets.empty() || std::ssize(budgets) == c.key_heads(), "head_top_k has ", budgets.size(),
        " numbers; there are ", c.key_heads(), " key/value heads");
}

}  // namespace hsattn::lm
