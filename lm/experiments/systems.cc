#include "lm/experiments/systems.h"

#include "hsattn/base/error.h"
#include "lm/model/config.h"

namespace hsattn::lm {
namespace {

bool accepts(const AttentionOptions& options) {
  try {
    check_attention_options(options);
    if (options.ours()) options.plan_options();
    return true;
  } catch (const InvalidArgument&) {
    return false;
  }
}

// What the command line says of HSA alone.
void append_hsa_only(std::vector<std::string>& words, const Budget& b) {
  const auto add = [&](const char* option, Index value) { words.insert(words.end(), {option, std::to_string(value)}); };
  words.insert(words.begin() + 2, {"--preset", preset_of_hsa(b)});
  add("--candidates", b.candidates), add("--top-nodes", b.top_nodes);
  if (b.node > 0) add("--node", b.node);
}

}  // namespace

const std::vector<System>& systems() {
  static const std::vector<System> all = {
      {"full", SystemKind::kFull, "this library, every token"},
      {"standard", SystemKind::kFull, "unfused: n x n scores in memory"},
      {"sdpa", SystemKind::kFull, "PyTorch's fused kernel"},
      {"local", SystemKind::kSparse, "a window alone: the control"},
      {"sparse_transformer", SystemKind::kSparse, "Child et al. 2019"},
      {"longformer", SystemKind::kSparse, "Beltagy et al. 2020"},
      {"bigbird", SystemKind::kSparse, "Zaheer et al. 2020"},
      {"linformer", SystemKind::kLinear, "Wang et al. 2020"},
      {"performer", SystemKind::kLinear, "Choromanski et al. 2020"},
      {"linear", SystemKind::kLinear, "Katharopoulos et al. 2020"},
      {"hsa", SystemKind::kSparse, "hierarchical sparse attention"},
  };
  return all;
}

bool knows_attention(const std::string& name) {
  AttentionOptions options;
  options.attention = name;
  return accepts(options);
}

bool knows_pooling(const std::string& name) {
  AttentionOptions options;
  options.pooling = name;
  return accepts(options);
}

const char* preset_of_hsa(const Budget& budget) { return budget.far_field ? "paper" : "training"; }

std::vector<std::string> attention_arguments(const std::string& name, const Budget& b) {
  std::vector<std::string> all = {"--attention", name};
  const auto add = [&](const char* option, Index value) { all.insert(all.end(), {option, std::to_string(value)}); };
  for (const System& system : systems()) {
    if (name != system.name || system.kind != SystemKind::kSparse) continue;
    const bool local = name == "local";
    add("--window", local ? b.attended() : b.window);
    if (local) continue;
    add("--top-k", b.top_k), add("--sinks", b.sinks), add("--block", b.block), add("--dense-until", 0);
    if (name == "hsa") append_hsa_only(all, b);
  }
  return all;
}

const std::vector<Variant>& level_variants() {
  static const std::vector<Variant> all = [] {
    std::vector<Variant> rows;
    for (int level = 1; level <= 6; ++level) {
      const std::string text = std::to_string(level);
      rows.push_back({"levels-" + text, {"levels=" + text}, "the search starts at nodes of 2^levels tokens"});
    }
    rows.push_back({"levels-auto", {}, "the search starts where at most top_nodes nodes cover the past"});
    return rows;
  }();
  return all;
}

std::vector<Variant> ablation_variants(const Preset& p) {
  const auto text = [](Index value) { return std::to_string(value); };
  const Budget& b = p.paper_form;
  std::vector<std::string> of_table51 = {"far_field=false"};
  if (p.budget.candidates != b.candidates) of_table51.push_back("candidates=" + text(p.budget.candidates));
  if (p.budget.node > 0) of_table51.push_back("node=" + text(p.budget.node));
  std::vector<Variant> rows = {
      {"base", {}, "the paper's form: far field, a search down to the blocks, and rescoring"},
      {kTable51, of_table51, "the form of table 5.1: no far field, larger nodes"},
      {"pooling-max", {"pooling=max"}, "the largest element in place of the mean"},
      {"pooling-attention", {"pooling=attention"}, "weights from the keys"},
      {"pooling-attention-paper", {"pooling=attention_paper"}, "the paper's AdaptivePool"},
      {"pooling-learnable", {"pooling=learnable"}, "weights per place in the group and channel"},
      {"no-far-field", {"far_field=false"}, "what was not kept is not seen"},
      {"no-rescoring", {"candidates=" + text(b.top_k)}, "the descent alone decides"},
      {"no-rescoring-no-far-field", {"candidates=" + text(b.top_k), "far_field=false"}, "the search alone"},
      {"warm-up",
       {"first_top_k=" + text(4 * b.top_k), "first_steps=" + text(p.short_steps + (p.steps - p.short_steps) / 4)},
       "four times the budget for the first quarter of the steps with whole windows"},
  };
  for (const Index block : {4, 16, 32}) {
    if (block == b.block) continue;
    rows.push_back({"block-" + text(block), {"block=" + text(block)}, "another unit of selection"});
  }
  return rows;
}

}  // namespace hsattn::lm
