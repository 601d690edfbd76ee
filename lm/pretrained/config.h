// What a Hugging Face folder says of its model: config.json of the Llama family. No torch here.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "lm/model/config.h"

namespace hsattn::lm {

/// How rotary frequencies follow from a model's base. docs of transformers: "rope_type".
struct RopeConfig {
  enum class Type { kDefault, kLinear, kDynamic, kLlama3 };
  Type type = Type::kDefault;
  double base = 10000;
  double factor = 1;                                           ///< not of kDefault
  double low_frequency_factor = 1, high_frequency_factor = 4;  ///< kLlama3
  double original_length = 0;  ///< kLlama3: tokens that the model was first trained with
};

/// A decoder: RMSNorm, rotary positions, SwiGLU, grouped queries.
struct PretrainedConfig {
  std::string family;  ///< llama, qwen2, qwen3, mistral
  Index vocabulary = 0, width = 0, inner = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  Index longest = 2048;  ///< tokens that the model was made for
  double norm_epsilon = 1e-6;
  RopeConfig rope;
  bool tied = false;  ///< the output's matrix is the embedding
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool head_norms = false;         ///< q and k are normalised in each head
  std::vector<Index> windows;      ///< [layers] tokens that a layer sees, its own included; 0: all
  nlohmann::ordered_json budgets;  ///< of the file hsattn.json, or the key `hsattn`; an object or null
  std::string budgets_source = "config.json: hsattn";  ///< names them in errors
};

/// The file beside a model that says with which options its layers attend, in the words of config.json's key `hsattn`,
/// over which it wins. Its member `measured` is for people.
constexpr const char* kBudgetsFile = "hsattn.json";

/// Reads the text of a config.json, an untrusted file; `what` names it. Throws FileError: damaged or impossible.
/// Throws Unsupported, naming it: whatever the model needs that is not here.
PretrainedConfig parse_pretrained_config(std::string_view text, const std::string& what);

/// The config.json of a folder, with the budgets of its hsattn.json if there is one.
PretrainedConfig read_pretrained_config(const std::string& folder);

/// True if the folder holds a model as transformers saves it (a config.json with `model_type`).
bool is_pretrained_folder(const std::string& folder);

/// The text of a kBudgetsFile in the place of the config's own budgets; `what` names it. Throws FileError.
void set_budgets(std::string_view text, const std::string& what, PretrainedConfig& config);

/// Throws InvalidArgument for attention with parameters of its own, which no pretrained model has.
void check_pretrained_attention(const AttentionOptions& options);

/// Sets the options that the model's budgets name for all layers, in hsattn.hf.configure()'s words. Throws FileError.
void set_model_budgets(const PretrainedConfig& config, AttentionOptions& options);

/// Options for each layer: `base`; with `own_layers` what the model's budgets say of single layers on top. A layer with
/// a sliding window has that and nothing else. Throws FileError, or InvalidArgument for options that cannot be.
std::vector<AttentionOptions> layer_attention(const PretrainedConfig& config, const AttentionOptions& base,
                                              bool own_layers);

}  // namespace hsattn::lm
