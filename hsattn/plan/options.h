// What a caller asks for: a pattern and its budgets. Names are the same in C++, Python and on the command line.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn {

/// Which tokens a position attends.
///   kFull   everything (that causality allows)
///   kLocal  the near window alone: the control
///   kHsa    near window, sinks, and blocks found by hierarchical search (docs/design.md, "Selection")
/// and the patterns of other papers, whose lists follow from the position alone (docs/design.md, "Patterns"):
///   kSparseTransformer       near window, sinks, and every stride-th block before the position's own
///   kSparseTransformerFixed  near window, sinks, the own segment of stride tokens, and the last block of each other
///   kLongformer              near window, global tokens, and behind the window every dilation-th block
///   kBigBird                 near window, global tokens, and random blocks
enum class Pattern { kFull, kLocal, kHsa, kSparseTransformer, kSparseTransformerFixed, kLongformer, kBigBird };

/// How keys and values are pooled into the pyramid, element by element: the mean or the largest of a node's tokens.
enum class Pooling { kMean, kMax };

/// Budgets of hierarchical sparse attention, in tokens unless said otherwise. Other patterns read window, top_k, block
/// and sinks, as far as they have them, and what is theirs at the end; what is not theirs is not looked at.
struct HsaOptions {
  Index window = 128;       ///< near tokens before each position, always attended (bidirectional: on both sides)
  Index top_k = 512;        ///< selected tokens that are attended, rounded up to blocks. Lists have room for all of
                            ///< them, also where there are fewer; to attend everything use kFull or dense_until
  Index candidates = 4096;  ///< tokens that the descent returns for exact rescoring; <= top_k: no rescoring
  Index block = 8;          ///< tokens per block, a power of two up to 64
  Index sinks = 8;          ///< first tokens, always attended, rounded up to blocks; besides top_k. In longformer and
                            ///< bigbird they are the global tokens: bidirectional, they attend everything themselves
  Index top_nodes = 1024;   ///< the search starts at the finest level on which at most so many nodes cover the past
  Index beam = 0;           ///< nodes refined per level; 0: candidates / block (or top_k / block if that is more)
  Index dense_until = -1;   ///< a position whose past is at most this long attends all of it; -1: auto, see
                            ///< dense_until_of()
  bool far_field = false;   ///< attend pooled nodes for all that was not kept
  Index levels = 0;         ///< 0: auto; 1..6: search starts at nodes of 2^levels tokens, block = min(block, 2^levels)
  Pooling pooling = Pooling::kMean;
  double mass = 0;         ///< 0: top_k tokens; else the share of the attention that is enough, in millionths up to 1
  Index min_top_k = 64;    ///< with `mass`: selected tokens that are attended in any case
  Index stride = 0;        ///< sparse_transformer: rounded up to blocks; 0: what top_k needs to reach all of the past
  Index dilation = 1;      ///< longformer: every dilation-th block behind the near window; 1: all
  Index pattern_seed = 0;  ///< bigbird: of its random blocks
  Index node = 0;          ///< tokens of the smallest nodes that the search scores, a power of two up to 64; 0: block.
                           ///< If more, rescoring keeps single blocks of the candidates, which are nodes
  double tail = 0;  ///< share of a candidate's rejected attention with which the mean of its values is attended, in
                    ///< millionths up to 1; 0: what is rejected is not seen. No gradient passes through it
  Index parts = 1;  ///< equal parts of the smallest nodes that are scored, and stand in a tail, by means of their own:
                    ///< a power of two up to node; 1: the node as a whole
  std::vector<Index> head_top_k = {};  ///< of each key/value head, in the place of top_k; empty: top_k for all. Lists
                                       ///< have room for the largest, which all else (beam, dense_until) goes by

  bool operator==(const HsaOptions&) const = default;

  Index top_k_of(Index kv_head) const {
    return head_top_k.empty() ? top_k : head_top_k.at(static_cast<std::size_t>(kv_head));
  }
  /// Of all heads.
  Index largest_top_k() const {
    return head_top_k.empty() ? top_k : *std::max_element(head_top_k.begin(), head_top_k.end());
  }

  /// The defaults: work on any model without training.
  static HsaOptions any_model() { return {}; }
  /// For models that are trained with it: half the candidates, which cost most of the search, are enough then
  /// (docs/experiments.md, "What earns its cost").
  static HsaOptions training() {
    HsaOptions o;
    o.candidates = 4 * o.top_k;
    o.dense_until = 1024;
    return o;
  }
  /// For models that were trained with full attention, where quality counts more than speed: pairs of tokens are kept,
  /// of candidates that means of two tokens find, and what is rejected is a tail, so for inference alone
  /// (docs/pretrained.md).
  static HsaOptions pretrained() {
    HsaOptions o;
    o.block = 2;
    o.node = 8;
    o.parts = 4;
    o.tail = 0.5;
    return o;
  }
  /// The paper's form: no rescoring (candidates = top_k), far field on.
  static HsaOptions paper() {
    HsaOptions o;
    o.candidates = o.top_k;
    o.dense_until = 1024;
    o.far_field = true;
    return o;
  }
};

/// Everything that decides a plan besides the tensors.
struct PlanOptions {
  Pattern pattern = Pattern::kHsa;
  bool causal = true;
  HsaOptions hsa;
};

const char* name_of(Pattern pattern);
const char* name_of(Pooling pooling);

/// The names of all patterns: full, local, hsa, sparse_transformer, sparse_transformer_fixed, longformer, bigbird.
std::vector<std::string> pattern_names();

/// Throws InvalidArgument that lists the names.
Pattern pattern_from_name(const std::string& name);

/// "mean" or "max". Throws InvalidArgument that lists the names.
Pooling pooling_from_name(const std::string& name);

/// The options that are named above: any_model, training, pretrained, paper.
std::vector<std::string> preset_names();

/// Throws InvalidArgument that lists the names.
HsaOptions preset_from_name(const std::string& name);

/// Throws InvalidArgument, naming the option, its value and what is right.
void check_options(const PlanOptions& options);

}  // namespace hsattn
