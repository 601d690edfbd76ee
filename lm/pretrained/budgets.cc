// hsattn.json, or the key `hsattn` of a config.json: with which options the model's layers attend.
#include <filesystem>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/options/json_options.h"
#include "lm/options/untrusted_json.h"
#include "lm/pretrained/config.h"

namespace hsattn::lm {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kDepth = 16;

Json in_our_words(const std::string& name, const Json& value) {
  if (name == "levels" && value == "auto") return 0;
  if (!value.is_null()) return value;
  if (name == "beam" || name == "stride" || name == "node") return 0;
  if (name == "dense_until") return -1;
  return name == "head_top_k" ? Json::array() : value;
}

// Python's names and values to ours.
Json in_our_words(const Json& options) {
  Json renamed = Json::object();
  for (const auto& [name, value] : options.items()) {
    if (name != "layers") renamed[name == "pattern" ? "attention" : name] = in_our_words(name, value);
  }
  return renamed;
}

void check_head_budgets(const PretrainedConfig& config, const AttentionOptions& o) {
  const std::vector<Index>& budgets = o.hsa.head_top_k;
  check(budgets.empty() || std::ssize(budgets) == config.kv_heads, "head_top_k has ", budgets.size(),
        " numbers; the model has ", config.kv_heads, " key/value heads");
}

void set(const PretrainedConfig& config, AttentionOptions& options, const Json& named, const std::string& what) {
  if (!named.is_object()) throw FileError(what + " is no object");
  for (const auto& [name, value] : named.items()) {
    if (!value.is_string()) continue;
    const auto text = value.get<std::string>();
    if (quoted(text) == "\"" + text + "\"") continue;  // or what refuses it would show it as it is
    throw FileError(concat(what, ": ", quoted(name), " is ", quoted(text), ", which no option can be"));
  }
  from_json(in_our_words(named), options, what);
  try {
    check_attention_options(options);
    check_pretrained_attention(options);
    check_head_budgets(config, options);
  } catch (const InvalidArgument& error) {
    throw FileError(what + ": " + error.what());
  }
}

AttentionOptions sliding(Index window) {
  AttentionOptions options;
  options.attention = "local";
  options.hsa.window = window - 1;  // before the position
  options.hsa.block = 1;            // larger blocks would begin earlier
  return options;
}

}  // namespace

void check_pretrained_attention(const AttentionOptions& o) {
  check(!o.baseline() && !o.has_pooler(), "attention is ", o.attention, " with pooling ", o.pooling,
        "; a pretrained model runs with the library's patterns, sdpa or standard, and pooling mean or max");
}

void set_budgets(std::string_view text, const std::string& what, PretrainedConfig& config) {
  config.budgets = parse_untrusted_json(text, what, kDepth);
  if (!config.budgets.is_object()) throw FileError(what + ": not a JSON object");
  config.budgets.erase("measured");
  config.budgets_source = what;
}

void set_model_budgets(const PretrainedConfig& config, AttentionOptions& options) {
  if (!config.budgets.is_null()) set(config, options, config.budgets, config.budgets_source);
}

std::vector<AttentionOptions> layer_attention(const PretrainedConfig& config, const AttentionOptions& base,
                                              bool own_layers) {
  const auto layers = static_cast<std::size_t>(config.layers);
  std::vector<AttentionOptions> all(layers, base);
  for (std::size_t i = 0; i < layers; ++i) all[i] = base.of_layer(static_cast<Index>(i));
  if (own_layers && config.budgets.is_object() && config.budgets.contains("layers")) {
    const Json& named = config.budgets["layers"];
    if (!named.is_object()) throw FileError(config.budgets_source + ": layers is no object");
    for (const auto& [name, options] : named.items()) {
      std::size_t layer = 0;
      while (layer < layers && std::to_string(layer) != name) ++layer;
      if (layer == layers) {
        throw FileError(
            concat(config.budgets_source, ": layers names ", quoted(name), "; there are 0 to ", layers - 1));
      }
      set(config, all[layer], options, concat(config.budgets_source, ": layer ", layer));
    }
  }
  for (std::size_t i = 0; i < layers; ++i) {
    if (config.windows[i] > 0) all[i] = sliding(config.windows[i]);
    check_attention_options(all[i]);
    check_pretrained_attention(all[i]);
    check_head_budgets(config, all[i]);
  }
  return all;
}

bool is_pretrained_folder(const std::string& folder) {
  const std::string path = folder + "/config.json";
  if (!std::filesystem::is_regular_file(path)) return false;
  const auto config = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  return config.is_object() && config.contains("model_type");
}

}  // namespace hsattn::lm
