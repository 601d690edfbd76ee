// The decoder of pretrained models, where the program's tests cannot look: reading that is interrupted.
#include "lm/pretrained/decoder.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

#include "lm/model/safetensors.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

constexpr Index kWidth = 32, kInner = 48, kLayers = 3, kVocabulary = 40;

// A Llama of 2 heads of 16 over one key/value head, with random weights.
void write_model(const test::TemporaryFolder& folder) {
  folder.write("config.json", R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 40,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": true})");
  at::manual_seed(1);
  SafeTensors weights;
  const auto add = [&](const std::string& name, const std::vector<std::int64_t>& shape) {
    const at::Tensor x = shape.size() == 1 ? at::ones(shape) : 0.3 * at::randn(shape);
    weights.tensors.emplace_back("model." + name + ".weight", x.contiguous());
  };
  add("embed_tokens", {kVocabulary, kWidth});
  add("norm", {kWidth});
  for (Index i = 0; i < kLayers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    for (const char* name : {"input_layernorm", "post_attention_layernorm"}) add(layer + name, {kWidth});
    for (const char* name : {"q_proj", "o_proj"}) add(layer + "self_attn." + name, {kWidth, kWidth});
    for (const char* name : {"k_proj", "v_proj"}) add(layer + "self_attn." + name, {kWidth / 2, kWidth});
    for (const char* name : {"gate_proj", "up_proj"}) add(layer + "mlp." + name, {kInner, kWidth});
    add(layer + "mlp.down_proj", {kWidth, kInner});
  }
  write_safetensors(folder.file("model.safetensors"), weights);
}

TEST(Decoder, StopsBetweenLayersAndReadsOnAsIfItHadNot) {
  const test::TemporaryFolder folder;
  write_model(folder);
  const std::string path = folder.file(".");
  Decoder decoder(read_pretrained_config(path), Weights(path), at::kFloat);
  AttentionOptions options;
  options.attention = "hsa";
  const at::Tensor prompt = at::arange(30), rest = at::arange(10, 40);
  KeyValues once(std::vector<AttentionOptions>(kLayers, options)),
      past(std::vector<AttentionOptions>(kLayers, options));
  decoder.hidden(prompt, once);
  decoder.hidden(prompt, past);

  std::atomic<bool> stop = false;
  std::vector<Index> layers;
  past.observe([&](const LayerInputs& in) {
    layers.push_back(in.layer);
    stop = in.layer == 1;
  });
  EXPECT_FALSE(decoder.hidden(rest, past, 0, &stop).defined());
  EXPECT_EQ(layers, (std::vector<Index>{0, 1}));
  EXPECT_EQ(past.tokens(), 30);

  past.observe(nullptr);
  past.crop(past.tokens());
  EXPECT_TRUE(at::equal(decoder.hidden(rest, past), decoder.hidden(rest, once)));
}

// Rows go through the layers by the thousand, and a single one on a path of its own.
TEST(Decoder, ReadsLongPromptsAsItReadsTheirParts) {
  const test::TemporaryFolder folder;
  write_model(folder);
  const std::string path = folder.file(".");
  AttentionOptions options;
  options.attention = "hsa";
  for (const auto& [type, tolerance] : {std::pair{at::kFloat, 1e-4}, std::pair{at::kBFloat16, 0.1}}) {
    Decoder decoder(read_pretrained_config(path), Weights(path), type);
    at::manual_seed(2);
    const at::Tensor tokens = at::randint(0, kVocabulary, {2100});
    KeyValues once(std::vector<AttentionOptions>(kLayers, options)),
        past(std::vector<AttentionOptions>(kLayers, options));
    const at::Tensor whole = decoder.hidden(tokens, once).to(at::kFloat);
    std::vector<at::Tensor> parts;
    for (const Index end : {1, 700, 701, 2099, 2100}) {
      parts.push_back(decoder.hidden(tokens.slice(0, past.tokens(), end), past).to(at::kFloat));
    }
    const at::Tensor apart = (at::cat(parts) - whole).abs();
    EXPECT_LT(apart.mean().item<double>(), tolerance / 10) << type;
    EXPECT_TRUE(type == at::kBFloat16 || apart.max().item<double>() < tolerance) << apart.max();
  }
}

}  // namespace
}  // namespace hsattn::lm
