// What a model is: sizes and the attention it uses. No torch here.
#pragma once

#include <string>

#include "hsattn/plan/options.h"
#include "lm/options/option_visitor.h"

namespace hsattn::lm {

/// Attention by name, with the budgets of this library's patterns.
///   standard   unfused: n x n scores in memory, as the paper's baseline
///   sdpa       PyTorch's fused scaled_dot_product_attention
///   full, local, hsa, ...   this library's patterns: pattern_names()
///   linear, performer, linformer  baselines with kernels of their own: hsattn/baselines/
struct AttentionOptions : Options {
  std::string attention = "hsa";
  std::string preset = "training";
  std::string pooling = "mean";
  HsaOptions hsa = HsaOptions::training();
  Index features = 0;
  Index feature_seed = 0;
  Index redraw = 0;
  Index rank = 8;
  Index segment = 256;
  Index longest = 8192;
  std::string sharing = "layers";

  void visit(OptionVisitor& option) override;
  void visit_budgets(OptionVisitor& option);
  void visit_baselines(OptionVisitor& option);
  void apply_preset() override;

  /// True for the patterns that run on this library's kernels.
  bool ours() const;
  /// The same for one layer of a model: bigbird draws other blocks in each.
  AttentionOptions of_layer(Index layer) const;
  /// True if the pooling has parameters, which belong to the model (pooling/pooler.h); else it is mean or max.
  bool has_pooler() const { return pooling != "mean" && pooling != "max"; }
  /// True for the baselines of hsattn/baselines/, which have no plan.
  bool baseline() const { return attention == "linear" || attention == "performer" || attention == "linformer"; }
  /// Projections of linformer in a model of `layers`; each is [rank, longest].
  Index projections(Index layers) const;
  /// The features of performer in the step after `steps` others.
  Index feature_seed_at(Index steps) const { return feature_seed + (redraw > 0 ? steps / redraw : 0); }
  /// Pattern and budgets for the library; only if ours().
  PlanOptions plan_options() const;
};

/// The names of this library's patterns for a help text: "hsa | full | ...".
std::string patterns_for_help();

/// Throws InvalidArgument, naming the option.
void check_attention_options(const AttentionOptions& options);

/// Throws InvalidArgument if this attention cannot take sequences of `context` tokens.
void check_context(const AttentionOptions& options, Index context);

/// A decoder: RMSNorm, rotary positions, SwiGLU, embedding tied to the output; queries and keys may see the tokens just
/// before theirs (So et al. 2021, Primer), without which a small model learns to copy only after long training.
struct ModelConfig : Options {
  Index vocabulary = 256;  // bytes
  std::string tokenizer;   // fingerprint; empty: bytes
  Index layers = 6;
  Index width = 384;
  Index heads = 6;
  Index kv_heads = 0;
  Index hidden = 0;
  double rope_base = 10000;
  Index taps = 0;
  AttentionOptions attention;
  bool pooler_per_layer = false;

  void visit(OptionVisitor& option) override;
  void apply_preset() override { attention.apply_preset(); }

  Index key_heads() const { return kv_heads > 0 ? kv_heads : heads; }
  Index head_dim() const { return width / heads; }
  /// Width inside the SwiGLU: as given, or 8/3 of the width rounded up to 64.
  Index inner() const { return hidden > 0 ? hidden : (width * 8 / 3 + 63) / 64 * 64; }
  /// Channels of the queries and keys, which the short convolution mixes in time: (heads + key_heads) * d.
  Index query_key_channels() const { return (heads + key_heads()) * head_dim(); }
  /// Parameters of the pooling: of one pooler, or one for each layer.
  Index pooler_parameters() const;
  Index parameters() const;
};

/// Throws InvalidArgument, naming the option.
void check_model_config(const ModelConfig& config);

}  // namespace hsattn::lm
