// Attention by name, and its budgets, as options.
#include <algorithm>

#include "hsattn/base/error.h"
#include "lm/model/config.h"

namespace hsattn::lm {

std::string patterns_for_help() {
  std::string names;
  for (const std::string& name : pattern_names()) names += (names.empty() ? "" : " | ") + name;
  return names;
}

void AttentionOptions::visit(OptionVisitor& option) {
  option("attention", attention, (patterns_for_help() + " | linear | performer | linformer | sdpa | standard").c_str());
  visit_budgets(option);
  visit_baselines(option);
}

void AttentionOptions::visit_baselines(OptionVisitor& option) {
  option("features", features, "performer: random features; 0: twice the head dimension");
  option("feature_seed", feature_seed, "performer: of the features");
  option("redraw", redraw, "performer: training draws new features every so many steps; 0: never");
  option("rank", rank, "linformer: rows that a past segment is projected to");
  option("segment", segment, "linformer: tokens of a segment; the own segment is attended token by token");
  option("longest", longest, "linformer: tokens of the longest sequence, at least the context");
  option("sharing", sharing,
         "linformer: heads (a projection of keys and one of values in each layer) | key_value (one for both) | layers "
         "(one for both and all layers)");
}

void AttentionOptions::visit_budgets(OptionVisitor& option) {
  option(
      "preset", preset,
      "budgets of hsa to start from: training | any_model (twice the candidates) | pretrained (pairs of tokens and a "
      "tail: closer to full attention, slower, not for training) | paper (no rescoring, far field)");
  option("window", hsa.window, "near tokens before each position");
  option("top_k", hsa.top_k, "selected tokens that are attended");
  option("candidates", hsa.candidates, "tokens that the descent returns for exact rescoring; at most top_k: none");
  option("block", hsa.block, "tokens per block, a power of two");
  option("sinks", hsa.sinks, "first tokens, always attended");
  option("top_nodes", hsa.top_nodes, "the search starts where at most so many nodes cover the past");
  option("beam", hsa.beam, "nodes refined per level; 0: candidates / block");
  option("dense_until", hsa.dense_until, "a past of at most so many tokens is attended whole; -1: auto");
  option("far_field", hsa.far_field, "attend pooled nodes for what was not kept");
  option("levels", hsa.levels, "0: auto; 1..6: the search starts at nodes of 2^levels tokens");
  option("pooling", pooling, "mean | max; with parameters: attention | attention_paper | learnable");
  option("node", hsa.node,
         "tokens of the smallest nodes of the search; 0: block. If more, single blocks of them are kept");
  option("tail", hsa.tail, "share of what rescoring rejects that mean values stand for; not in training");
  option("parts", hsa.parts, "parts of the smallest nodes that are scored by means of their own");
  option("head_top_k", hsa.head_top_k,
         "of each key/value head, in the place of top_k: numbers with commas; none: top_k");
  option("mass", hsa.mass, "0: top_k tokens; else the share of the attention that is enough, with at most top_k");
  option("min_top_k", hsa.min_top_k, "with mass: selected tokens that are attended in any case");
  option("stride", hsa.stride, "of sparse_transformer, in tokens; 0: what top_k needs to reach all of the past");
  option("dilation", hsa.dilation, "of longformer: every so many blocks behind the near window");
  option("pattern_seed", hsa.pattern_seed, "of bigbird's random blocks; each layer adds its number");
}

bool AttentionOptions::ours() const {
  const std::vector<std::string> names = pattern_names();
  return std::find(names.begin(), names.end(), attention) != names.end();
}

void AttentionOptions::apply_preset() { hsa = preset_from_name(preset); }

AttentionOptions AttentionOptions::of_layer(Index layer) const {
  AttentionOptions options = *this;
  options.hsa.pattern_seed += layer;
  return options;
}

PlanOptions AttentionOptions::plan_options() const {
  PlanOptions options;
  options.pattern = pattern_from_name(attention);
  options.causal = true;
  options.hsa = hsa;
  options.hsa.pooling = has_pooler() ? Pooling::kMean : pooling_from_name(pooling);
  return options;
}

Index AttentionOptions::projections(Index layers) const {
  if (attention != "linformer") return 0;
  return sharing == "layers" ? 1 : sharing == "key_value" ? layers : 2 * layers;
}

void check_attention_options(const AttentionOptions& options) {
  check(options.ours() || options.baseline() || options.attention == "sdpa" || options.attention == "standard",
        "attention is ", options.attention, "; one of ", patterns_for_help(),
        " | linear | performer | linformer | sdpa | standard is right");
  check(options.features >= 0 && options.features <= 65536, "features is ", options.features, "; 0 to 65536 is right");
  check(options.feature_seed >= 0, "feature_seed is ", options.feature_seed, "; at least 0 is right");
  check(options.rank >= 1 && options.rank <= 65536, "rank is ", options.rank, "; 1 to 65536 is right");
  check(options.segment >= 1, "segment is ", options.segment, "; at least 1 is right");
  check(options.longest >= 1 && options.longest <= Index{1} << 32, "longest is ", options.longest,
        "; 1 to 2^32 is right");
  check(options.sharing == "heads" || options.sharing == "key_value" || options.sharing == "layers", "sharing is ",
        options.sharing, "; heads, key_value or layers are right");
  check(options.redraw >= 0, "redraw is ", options.redraw, "; at least 0 is right");
  if (options.ours()) check_options(options.plan_options());
  if (!options.has_pooler()) return;
  check(options.pooling == "attention" || options.pooling == "attention_paper" || options.pooling == "learnable",
        "pooling is ", options.pooling, "; mean, max, attention, attention_paper or learnable are right");
  check(options.attention == "hsa", "pooling is ", options.pooling, ", which has parameters, and attention is ",
        options.attention, "; only hsa pools");
}

void check_context(const AttentionOptions& options, Index context) {
  check(options.attention != "linformer" || context <= options.longest, "context is ", context,
        "; linformer's projections are made for at most longest, ", options.longest);
}

}  // namespace hsattn::lm
