// Poolers with parameters: from the keys and values of tokens to those of the pyramid's nodes, and gradients back.
#pragma once

#include <span>
#include <string>

#include "hsattn/base/executor.h"
#include "hsattn/base/view.h"
#include "hsattn/plan/sequences.h"

namespace hsattn {

/// How a node's key and value are made of its tokens'. A node has the two nodes below it as children, a block its
/// tokens.
///   kAttention: means of the node's tokens with weights softmax(w.key), the same for key and value. w = 0: the mean.
///   kAttentionPaper: the paper's AdaptivePool: multi-head attention among the children, mean, LayerNorm.
///   kLearnable: pairs, from single tokens up: softmax over two positions of a weight for each position and channel.
///   All 0: the mean.
/// Nodes at a ragged end weigh their children by the tokens behind them; one with a single node below it is that node.
/// A node depends on its own tokens alone.
enum class Pooler { kAttention, kAttentionPaper, kLearnable };

const char* name_of(Pooler pooler);

/// "attention", "attention_paper" or "learnable". Throws InvalidArgument that lists the names.
Pooler pooler_from_name(const std::string& name);

/// The parameters of a pooler are a matrix [pooler_rows(), dim], shared by heads and levels:
///   kAttention       [w]
///   kAttentionPaper  [W_q; W_k; W_v; W_o; LayerNorm's factor; its offset], the first four [dim, dim] as [outputs,
///                    inputs]; shared by keys and values. It has 4, 2 or 1 heads: as many as divide dim
///   kLearnable       [first child's key; its value; second child's key; its value]
Index pooler_rows(Pooler pooler, Index dim);

/// Where training starts, [pooler_rows(), dim] of `type`, float32 or float64: zeros, that is the mean; for
/// kAttentionPaper all four matrices 1, factor 1, offset 0, so that nodes keep the directions of their tokens' keys.
void write_initial_parameters(Pooler pooler, Index dim, DType type, void* parameters);

/// Nodes of all levels over `keys` tokens in blocks of `block`, as they lie one after another: blocks first. Throws
/// InvalidArgument unless block is from 1 to 64 and keys from 0 to 2^40.
Index pooled_nodes(Index keys, Index block);

/// The most nodes that one batch element can have, if its `keys` tokens are cut into `sequences` of any lengths.
Index most_pooled_nodes(Index keys, Index block, Index sequences);

/// What a pooler reads.
///   k, v        [batch, kv_heads, keys, dim]  any type, last stride 1
///   parameters  [pooler_rows(), dim]          contiguous, node_type() of k
struct PoolerInputs {
  Pooler pooler = Pooler::kAttention;
  Index block = 8;  ///< tokens per block, a power of two up to 64
  ConstView k, v;
  const void* parameters = nullptr;
};

/// What pool_backward writes: dk, dv shaped and typed as k, v; dparameters as the parameters, summed over all heads.
struct PoolerGradients {
  View dk, dv;
  void* dparameters = nullptr;
};

/// Pools into `out`, of pooled_nodes() nodes, O(keys * dim) (kAttentionPaper: times dim). Memory apart from the inputs;
/// the bits depend on nothing but the inputs, not on threads or on tokens outside a node. Throws InvalidArgument if
/// shapes, types or options do not fit.
void pool_forward(const PoolerInputs& in, const Nodes& out, Executor& executor = serial_executor());

/// The gradients of tokens and parameters from those of nodes; overwritten. A node whose gradient is exactly zero
/// leaves its tokens untouched, whatever they hold.
void pool_backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads,
                   Executor& executor = serial_executor());

/// The same for several sequences that share tensors, of whose keys alone is asked: the nodes of each are those that it
/// has alone, with the same bits. The nodes of a batch element lie one sequence after another, in their order; `out`
/// has room for them or more, most_pooled_nodes() for one, and rows behind the last become 0. No key may be in two
/// sequences; those in none are not read.
void pool_forward(const PoolerInputs& in, std::span<const Sequence> sequences, const Nodes& out,
                  Executor& executor = serial_executor());

/// Gradients of tokens in no sequence become 0; what dnodes holds behind the last node is not read.
void pool_backward(const PoolerInputs& in, std::span<const Sequence> sequences, const ConstNodes& dnodes,
                   const PoolerGradients& grads, Executor& executor = serial_executor());

}  // namespace hsattn
