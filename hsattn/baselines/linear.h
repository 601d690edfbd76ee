// Attention whose weights are products of features instead of a softmax: linear in the length, and in causal form a
// recurrence with a state of constant size.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "hsattn/attention/attention.h"

namespace hsattn {

/// phi, which maps a query or key to positive features.
///   elu        phi(x) = elu(x) + 1, as many features as dimensions. Katharopoulos et al. 2020, equation 7
///   performer  phi(x)_f = exp(w_f . y - |y|^2 / 2) with y = sqrt(scale) x, so that phi(q) . phi(k) estimates
///              exp(scale q . k). Choromanski et al. 2020 (FAVOR+), equation 5 and section 2.4
///
/// So that no denominator is 0, elu takes x from -20 on, and a feature of performer is at least e^-30 times the largest
/// of its row; gradients are those of the features without these bounds. A factor common to all features of a query
/// cancels out, and performer's keys carry an exponent of their own: a row scales by the largest among the keys that it
/// sees. So nothing overflows, and nothing depends on later keys.
struct FeatureMap {
  const float* projection = nullptr;  ///< rows w_f, [features, dim], contiguous; null: elu
  Index features = 0;                 ///< rows of `projection`

  /// Features of a vector of `dim` numbers.
  Index count(Index dim) const { return projection == nullptr ? dim : features; }
};

/// Rows w_f of performer's features: normal, and in groups of `dim` rows orthogonal to each other, with the lengths of
/// independent normal vectors (Choromanski et al. 2020, section 2.4). A function of its arguments alone; another seed
/// redraws them.
std::vector<float> draw_features(Index features, Index dim, std::uint64_t seed);

struct LinearOptions {
  FeatureMap map;
  bool causal = true;
};

/// o_i = sum_j w_ij v_j / sum_j w_ij, with w_ij = phi(q_i) . phi(k_j), over the keys that position i sees.
///
///   in.q     [batch, heads, queries, dim]   float32, bfloat16, float16 or float64, last stride 1
///   in.k, v  [batch, kv_heads, keys, dim]   type of q; heads is a multiple of kv_heads
///   o        [batch, heads, queries, dim]   type of q; memory apart from the inputs
/// `in.scale` is performer's, positive, 1/sqrt(dim) if unset; elu has none. Query i has position i + keys - queries; a
/// row that sees no key gives o = 0. Later keys and values may hold NaN.
///
/// Computed in chunks of 64 keys: products within the chunk, and one with the state of all before it (Katharopoulos et
/// al. 2020, equations 16 to 20, in blocks). O(n features dim). One thread works on a key/value head of a sequence.
/// Throws InvalidArgument if shapes, types or options do not fit, memory overlaps, or pooled nodes are given.
void linear_attention_forward(const AttentionInputs& in, const LinearOptions& options, const View& o,
                              Executor& executor = serial_executor());

/// The same for several sequences that share tensors, each as if it were alone; see attention_forward().
void linear_attention_forward(const AttentionInputs& in, std::span<const Sequence> sequences,
                              const LinearOptions& options, const View& o, Executor& executor = serial_executor());

/// Gradients; `dout` and `o` are the gradient of o and o itself, `grads` is overwritten. Features get none.
void linear_attention_backward(const AttentionInputs& in, const LinearOptions& options, const ConstView& dout,
                               const ConstView& o, const AttentionGradients& grads,
                               Executor& executor = serial_executor());

void linear_attention_backward(const AttentionInputs& in, std::span<const Sequence> sequences,
                               const LinearOptions& options, const ConstView& dout, const ConstView& o,
                               const AttentionGradients& grads, Executor& executor = serial_executor());

/// What causal attention keeps of the keys and values so far, of constant size: [batch, kv_heads, features + 1,
/// dim + 1], contiguous, float32 (float64 if the tensors are). Row f < features holds sum_j phi(k_j)_f v_j and
/// sum_j phi(k_j)_f, both divided by 2^m; the last row begins with m and goes on with zeros. All zeros: no keys yet.
/// Of a call with sequences there is one for each of them, in their order, in the place of the batch.
struct LinearState {
  const void* before = nullptr;  ///< null: no keys yet
  void* after = nullptr;         ///< may be `before`; else memory apart from everything
};

/// Elements of a state, of so many sequences or of the batch.
Index linear_state_elements(const AttentionInputs& in, const FeatureMap& map, std::optional<Index> sequences = {});

/// Causal attention of the queries over `state.before` and the keys given here, at most as many queries as keys; the
/// keys are added to the state. A prefill and any number of steps equal one call over all of it: bit by bit where they
/// are cut at multiples of 64 tokens, else within rounding.
void linear_attention_step(const AttentionInputs& in, const FeatureMap& map, const LinearState& state, const View& o,
                           Executor& executor = serial_executor());

/// The same for several sequences that share tensors, each from a state of its own; see attention_forward(). A sequence
/// without keys leaves its state as it is.
void linear_attention_step(const AttentionInputs& in, std::span<const Sequence> sequences, const FeatureMap& map,
                           const LinearState& state, const View& o, Executor& executor = serial_executor());

}  // namespace hsattn
