#include "lm/pretrained/config.h"

#include <filesystem>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"

namespace hsattn::lm {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::uintmax_t kLargestConfig = 1 << 20;  // bytes; those of known models have a few thousand
constexpr int kDepth = 16;

// What a family does that its config.json need not say.
struct Family {
  const char* type;
  const char* architecture;
  bool qkv_bias, head_norms;
  Index head_dim;  ///< if not given; 0: width / heads
};
constexpr Family kFamilies[] = {{"llama", "LlamaForCausalLM", false, false, 0},
                                {"mistral", "MistralForCausalLM", false, false, 0},
                                {"qwen2", "Qwen2ForCausalLM", true, false, 0},
                                {"qwen3", "Qwen3ForCausalLM", false, true, 128}};

// Keys that change what a model of these families computes, unless they are null or false.
constexpr struct {
  const char* key;
  const char* meaning;
} kRefused[] = {{"quantization_config", "quantised weights"},
                {"attn_logit_softcapping", "soft-capping of attention scores"},
                {"final_logit_softcapping", "soft-capping of logits"},
                {"num_experts", "a mixture of experts"},
                {"num_local_experts", "a mixture of experts"},
                {"is_encoder_decoder", "an encoder"},
                {"add_cross_attention", "cross-attention"},
                {"use_bidirectional_attention", "attention to later tokens"}};

class Reader {
 public:
  Reader(const Json& root, const std::string& what) : what_(what), fields_(root, what) {}

  PretrainedConfig read() {
    refuse();
    const Family& family = family_of(fields_.text("model_type"));
    read_sizes(family);
    config_.qkv_bias = family.qkv_bias || attention_bias(family);
    config_.output_bias = attention_bias(family);
    config_.mlp_bias = std::string(family.type) == "llama" && fields_.flag("mlp_bias", false);
    config_.head_norms = family.head_norms;
    config_.tied = fields_.flag("tie_word_embeddings", false);
    read_rope();
    read_windows();
    config_.budgets = fields_.value("hsattn");
    return std::move(config_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void unsupported(const Parts&... parts) const {
    throw Unsupported(concat(what_, ": ", parts...));
  }

  void refuse() const {
    for (const auto& [key, meaning] : kRefused) {
      const Json& value = fields_.value(key);
      if (!value.is_null() && value != false) unsupported(key, " asks for ", meaning, ", which is not supported");
    }
    if (fields_.has("hidden_act") && fields_.text("hidden_act") != "silu") {
      unsupported("hidden_act is ", quoted(fields_.text("hidden_act")), "; silu is supported");
    }
    if (fields_.has("partial_rotary_factor") && fields_.number("partial_rotary_factor", 0, 1) != 1) {
      unsupported("partial_rotary_factor asks for heads that are rotated in part, which is not supported");
    }
  }

  const Family& family_of(const std::string& type) {
    for (const Family& family : kFamilies) {
      if (type != family.type) continue;
      const Json& names = fields_.value("architectures");
      const bool right = names.is_null() || (names.is_array() && names.size() == 1 && names[0] == family.architecture);
      if (!right) unsupported("architectures is ", quoted(names.dump()), "; ", family.architecture, " is supported");
      config_.family = type;
      return family;
    }
    unsupported("model_type is ", quoted(type), "; llama, mistral, qwen2 and qwen3 are supported");
  }

  bool attention_bias(const Family& family) const {
    const bool has_option = std::string(family.type) == "llama" || std::string(family.type) == "qwen3";
    return has_option && fields_.flag("attention_bias", false);
  }

  void read_sizes(const Family& family) {
    config_.vocabulary = fields_.integer("vocab_size", 1, 1 << 24);
    config_.width = fields_.integer("hidden_size", 1, 1 << 20);
    config_.inner = fields_.integer("intermediate_size", 1, 1 << 22);
    config_.layers = fields_.integer("num_hidden_layers", 1, 10000);
    config_.heads = fields_.integer("num_attention_heads", 1, 1 << 16);
    config_.kv_heads =
        fields_.has("num_key_value_heads") ? fields_.integer("num_key_value_heads", 1, 1 << 16) : config_.heads;
    if (config_.heads % config_.kv_heads != 0) {
      throw FileError(concat(what_, ": num_key_value_heads is ", config_.kv_heads,
                             "; a divisor of num_attention_heads, ", config_.heads, ", is right"));
    }
    config_.head_dim = fields_.has("head_dim") ? fields_.integer("head_dim", 1, 1 << 16)
                       : family.head_dim > 0   ? family.head_dim
                                               : config_.width / config_.heads;
    if (config_.head_dim < 8 || config_.head_dim > 256 || config_.head_dim % 2 != 0) {
      unsupported("a head dimension of ", config_.head_dim, "; even ones of 8 to 256 are supported");
    }
    if (fields_.has("max_position_embeddings")) {
      config_.longest = fields_.integer("max_position_embeddings", 1, Index{1} << 40);
    }
    if (fields_.has("rms_norm_eps")) config_.norm_epsilon = fields_.number("rms_norm_eps", 0, 1);
  }

  // `rope_parameters`, or, as older files have it, rope_theta and `rope_scaling`.
  void read_rope() {
    RopeConfig& rope = config_.rope;
    if (fields_.has("rope_theta")) rope.base = fields_.number("rope_theta", 1, 1e15);
    const char* key = fields_.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
    if (!fields_.has(key)) return;
    const std::string what = concat(what_, ": ", key);
    const FieldReader fields(fields_.value(key), what);
    if (fields.has("rope_theta")) rope.base = fields.number("rope_theta", 1, 1e15);
    if (fields.has("partial_rotary_factor") && fields.number("partial_rotary_factor", 0, 1) != 1) {
      unsupported("partial_rotary_factor asks for heads that are rotated in part, which is not supported");
    }
    rope.type = rope_type(fields);
    if (rope.type == RopeConfig::Type::kDefault) return;
    rope.factor = fields.number("factor", 1, 1e6);
    if (rope.type != RopeConfig::Type::kLlama3) return;
    rope.low_frequency_factor = fields.number("low_freq_factor", 1e-6, 1e6);
    rope.high_frequency_factor = fields.number("high_freq_factor", 1e-6, 1e6);
    if (rope.high_frequency_factor <= rope.low_frequency_factor) {
      throw FileError(concat(what, ": high_freq_factor must be larger than low_freq_factor"));
    }
    rope.original_length = fields.has("original_max_position_embeddings")
                               ? fields.number("original_max_position_embeddings", 1, 1e12)
                               : static_cast<double>(config_.longest);
  }

  RopeConfig::Type rope_type(const FieldReader& fields) const {
    const char* key = fields.has("rope_type") ? "rope_type" : "type";
    const std::string name = fields.has(key) ? fields.text(key) : "default";
    if (name == "default") return RopeConfig::Type::kDefault;
    if (name == "linear") return RopeConfig::Type::kLinear;
    if (name == "dynamic") return RopeConfig::Type::kDynamic;
    if (name == "llama3") return RopeConfig::Type::kLlama3;
    unsupported("rotary positions of the type ", quoted(name), "; default, linear, dynamic and llama3 are supported");
  }

  void read_windows() {
    config_.windows.assign(static_cast<std::size_t>(config_.layers), 0);
    const Index window = sliding_window();
    if (window == 0) return;
    const Json& types = fields_.value("layer_types");
    if (types.is_null()) {
      const bool qwen = config_.family.starts_with("qwen");
      const Index first = !qwen                              ? 0
                          : fields_.has("max_window_layers") ? fields_.integer("max_window_layers", 0, 10000)
                                                             : 28;
      for (Index i = first; i < config_.layers; ++i) config_.windows[static_cast<std::size_t>(i)] = window;
      return;
    }
    if (!types.is_array() || types.size() != config_.windows.size()) {
      throw FileError(concat(what_, ": layer_types is no list of ", config_.layers, " names"));
    }
    for (std::size_t i = 0; i < config_.windows.size(); ++i) {
      if (types[i] != "sliding_attention" && types[i] != "full_attention") {
        unsupported("layer_types names ", quoted(types[i].dump()),
                    "; full_attention and sliding_attention are supported");
      }
      config_.windows[i] = types[i] == "sliding_attention" ? window : 0;
    }
  }

  // In tokens, the own one included; 0: none.
  Index sliding_window() const {
    if (config_.family == "llama") return 0;
    if (config_.family != "mistral" && !fields_.flag("use_sliding_window", false)) return 0;
    const Json& value = fields_.value("sliding_window");
    if (value.is_null()) return 0;
    return fields_.integer("sliding_window", 1, Index{1} << 40);
  }

  const std::string& what_;
  const FieldReader fields_;
  PretrainedConfig config_;
};

std::string read_small_file(const std::string& path) {
  std::error_code ignored;
  const std::uintmax_t bytes = std::filesystem::file_size(path, ignored);
  if (!ignored && bytes > kLargestConfig)
    throw FileError(concat(path, ": ", bytes, " bytes; at most ", kLargestConfig));
  return read_file(path);
}

}  // namespace

PretrainedConfig parse_pretrained_config(std::string_view text, const std::string& what) {
  return Reader(parse_untrusted_json(text, what, kDepth), what).read();
}

PretrainedConfig read_pretrained_config(const std::string& folder) {
  const std::string path = folder + "/config.json", budgets = folder + "/" + kBudgetsFile;
  PretrainedConfig config = parse_pretrained_config(read_small_file(path), path);
  if (std::filesystem::exists(budgets)) set_budgets(read_small_file(budgets), budgets, config);
  return config;
}

}  // namespace hsattn::lm
