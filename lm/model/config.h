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
struct AttentionOptions : Options {
  std::string attention = "hsa";
  std::string preset = "training";
  std::string pooling = "mean";
  HsaOptions hsa = HsaOptions::training();

  void visit(OptionVisitor& option) override;
  void visit_budgets(OptionVisitor& option);
  void apply_preset() override;

  /// True for the patterns that run on this library's kernels.
  bool ours() const;
  /// The same for one layer of a model: bigbird draws other blocks in each.
  AttentionOptions of_layer(Index layer) const;
  /// True if the pooling has parameters, which belong to the model (pooling/pooler.h); else it is mean or max.
  bool has_pooler() const { return pooling != "mean" && pooling != "max"; }
  /// Pattern and budgets for the library; only if ours().
  PlanOptions plan_options() const;
};

/// The names of this library's patterns for a help text: "hsa | full | ...".
std::string patterns_for_help();

/// Throws InvalidArgument, naming the option.
void check_attention_options(const AttentionOptions& options);

/// A decoder: RMSNorm, rotary positions, SwiGLU, embedding tied to the output.
struct ModelConfig : Options {
  Index vocabulary = 256;  // bytes
  Index layers = 6;
  Index width = 384;
  Index heads = 6;
  Index kv_heads = 0;
  Index hidden = 0;
  double rope_base = 10000;
  AttentionOptions attention;
  bool pooler_per_layer = false;

  void visit(OptionVisitor& option) override;
  void apply_preset() override { attention.apply_preset(); }

  Index key_heads() const { return kv_heads > 0 ? kv_heads : heads; }
  Index head_dim() const { return width / heads; }
  /// Width inside the SwiGLU: as given, or 8/3 of the width rounded up to 64.
  Index inner() const { return hidden > 0 ? hidden : (width * 8 / 3 + 63) / 64 * 64; }
  /// Parameters of the pooling: of one pooler, or one for each layer.
  Index pooler_parameters() const;
  Index parameters() const;
};

/// Throws InvalidArgument, naming the option.
void check_model_config(const ModelConfig& config);

}  // namespace hsattn::lm
