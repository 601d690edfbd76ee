#include "lm/pretrained/generation_config.h"

#include <filesystem>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"

namespace hsattn::lm {
namespace {

constexpr int kDepth = 16;
constexpr Index kLargestToken = (Index{1} << 31) - 1;

// What changes the choice of tokens, and the value with which it does not.
constexpr struct {
  const char* key;
  double neutral;
} kRefused[] = {{"num_beams", 1},      {"penalty_alpha", 0},  {"no_repeat_ngram_size", 0},
                {"min_p", 0},          {"typical_p", 1},      {"top_h", 0},
                {"epsilon_cutoff", 0}, {"eta_cutoff", 0},     {"guidance_scale", 1},
                {"min_length", 0},     {"min_new_tokens", 0}, {"encoder_repetition_penalty", 1}};

std::vector<Token> end_tokens(const FieldReader& fields, const std::string& what) {
  const auto& value = fields.value("eos_token_id");
  std::vector<Token> tokens;
  if (value.is_null()) return tokens;
  const auto add = [&](const nlohmann::ordered_json& id) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > static_cast<std::uint64_t>(kLargestToken)) {
      throw FileError(
          concat(what, ": eos_token_id is ", quoted(value.dump()), "; a token or a list of tokens is right"));
    }
    tokens.push_back(id.get<Token>());
  };
  if (value.is_array()) {
    for (const auto& id : value) add(id);
  } else {
    add(value);
  }
  return tokens;
}

}  // namespace

GenerationDefaults parse_generation_config(std::string_view text, const std::string& what) {
  const auto root = parse_untrusted_json(text, what, kDepth);
  const FieldReader fields(root, what);
  for (const auto& [key, neutral] : kRefused) {
    if (fields.has(key) && fields.number(key, -1e9, 1e9) != neutral) {
      throw Unsupported(concat(what, ": ", key, " is ", quoted(fields.value(key).dump()), ", which is not supported"));
    }
  }
  GenerationDefaults defaults;
  defaults.end = end_tokens(fields, what);
  SamplingOptions& sampling = defaults.sampling;
  if (fields.has("repetition_penalty")) sampling.repetition_penalty = fields.number("repetition_penalty", 1e-3, 100);
  if (!fields.flag("do_sample", false)) return defaults;
  sampling.temperature = fields.has("temperature") ? fields.number("temperature", 1e-6, 100) : 1;
  if (fields.has("top_p")) sampling.top_p = fields.number("top_p", 1e-9, 1);
  if (fields.has("top_k")) sampling.top_k = fields.integer("top_k", 0, kLargestToken);
  return defaults;
}

GenerationDefaults read_generation_defaults(const std::string& folder) {
  const std::string path = folder + "/generation_config.json", config = folder + "/config.json";
  GenerationDefaults defaults;
  if (std::filesystem::exists(path)) defaults = parse_generation_config(read_file(path), path);
  if (defaults.end.empty()) {
    const auto root = parse_untrusted_json(read_file(config), config, kDepth);
    defaults.end = end_tokens(FieldReader(root, config), config);
  }
  return defaults;
}

}  // namespace hsattn::lm
