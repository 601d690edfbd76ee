#include "lm/pretrained/conversion_inputs.h"

#include "hsattn/base/math.h"
#include "lm/data/files.h"
#include "lm/options/json_options.h"
#include "lm/pretrained/perplexity.h"

namespace hsattn::lm {
namespace {

ConversionText read_text(const Runtime& runtime, const std::string& path, const ConvertOptions& o) {
  auto windows = windows_of_text(runtime, path, o.context, o.calibration + o.windows);
  const WindowSplit split = split_windows(o.calibration + o.windows, o.calibration);
  ConversionText text;
  for (const Index i : split.first) text.calibration.push_back(std::move(windows[static_cast<std::size_t>(i)]));
  for (const Index i : split.rest) text.held_out.push_back(std::move(windows[static_cast<std::size_t>(i)]));
  return text;
}

// The budgets of an AttentionOptions alone.
struct Budgets : Options {
  explicit Budgets(const AttentionOptions& of) : attention(of) {}
  void visit(OptionVisitor& option) override { attention.visit_budgets(option); }
  AttentionOptions attention;
};

}  // namespace

std::vector<ConversionText> read_conversion_texts(const Runtime& runtime, const ConvertOptions& options) {
  std::vector<ConversionText> texts;
  for (const std::string& path : texts_of(options.text)) texts.push_back(read_text(runtime, path, options));
  return texts;
}

nlohmann::ordered_json options_besides_top_k(const AttentionOptions& base) {
  AttentionOptions defaults;
  defaults.preset = "any_model";
  defaults.apply_preset();
  Budgets ours(base), theirs(defaults);
  const nlohmann::ordered_json all = to_json(ours), usual = to_json(theirs);
  nlohmann::ordered_json others = nlohmann::ordered_json::object();
  for (const auto& [name, value] : all.items()) {
    const bool found = name == "top_k" || name == "head_top_k";
    if (name != "preset" && !found && value != usual.at(name)) others[name] = value;
  }
  return others;
}

std::string conversion_fingerprint(const ConvertOptions& o, const std::string& precision,
                                   const std::vector<ConversionText>& texts) {
  Fnv64 hash;
  const auto add = [&](const std::string& words) { hash.add(words.c_str(), words.size() + 1); };
  add(read_file(o.model + "/config.json"));
  add(options_besides_top_k(o.attention).dump() + precision);
  for (const Index number : {o.context, o.windows, o.calibration, o.least, o.most, o.chunk})
    add(std::to_string(number));
  for (const ConversionText& text : texts) {
    for (const auto* part : {&text.calibration, &text.held_out}) {
      for (const std::vector<Token>& window : *part) hash.add(window.data(), window.size() * sizeof(Token));
    }
  }
  return hex64(hash.value());
}

}  // namespace hsattn::lm
