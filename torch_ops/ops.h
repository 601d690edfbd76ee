// The ops, as register.cc names them. Schemas and shapes: register.cc.
#pragma once

#include <optional>
#include <string>
#include <tuple>

#include "torch_ops/options.h"
#include "torch_ops/tensors.h"

namespace hsattn::torch_ops {

/// o [B, H, n, d], lse [B, H, n], kept [B, Hkv, n, slots] (int32; [0] unless keep_plan and slots > 0).
/// `plan` holds lists to reuse; without it the call plans for itself.
///
/// `pooled_k`, `pooled_v` [B, Hkv, nodes, d], the type of lse: what the caller pooled, such as pool_forward(), instead
/// of what the call would; both or none.
///
/// `sequences` [count, 5], int64: batch element, first query, end, first key, end of each sequence that is attended as
/// if it were alone. With it o and the gradients are laid out [batch, tokens, heads, dim], and `kept` holds the
/// sequences' lists one after another: [B Hkv n slots], filled up with -1.
std::tuple<Tensor, Tensor, Tensor> attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                     const std::optional<Tensor>& plan, const std::string& pattern,
                                                     bool causal, const Budgets& budgets, std::optional<double> scale,
                                                     bool keep_plan, const std::optional<Tensor>& sequences,
                                                     const std::optional<Tensor>& pooled_k,
                                                     const std::optional<Tensor>& pooled_v);

/// o and lse of attention_forward, for calls that no gradient will be asked of: torch runs no Python for it.
std::tuple<Tensor, Tensor> attention_no_grad(const Tensor& q, const Tensor& k, const Tensor& v,
                                             const std::optional<Tensor>& plan, const std::string& pattern, bool causal,
                                             const Budgets& budgets, std::optional<double> scale,
                                             const std::optional<Tensor>& sequences,
                                             const std::optional<Tensor>& pooled_k,
                                             const std::optional<Tensor>& pooled_v);

/// dq, dk, dv, and of pooled_k and pooled_v ([0] where these are not given or the far field is off), with the plan held
/// fixed. `kept`: lists of the forward pass, or an empty tensor: they are found again,
/// bit-equal.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& dout, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& o, const Tensor& lse,
    const Tensor& kept, const std::string& pattern, bool causal, const Budgets& budgets, std::optional<double> scale,
    const std::optional<Tensor>& sequences, const std::optional<Tensor>& pooled_k,
    const std::optional<Tensor>& pooled_v);

/// Pooled keys and values [B, Hkv, nodes, d], the type of lse; parameters [rows, d] of that type. With sequences there
/// is room for as many nodes as so many sequences can have. See pooling/pooler.h.
std::tuple<Tensor, Tensor> pool_forward(const Tensor& k, const Tensor& v, const Tensor& parameters,
                                        const std::string& pooling, Index block,
                                        const std::optional<Tensor>& sequences);

/// dk, dv, dparameters.
std::tuple<Tensor, Tensor, Tensor> pool_backward(const Tensor& dpooled_k, const Tensor& dpooled_v, const Tensor& k,
                                                 const Tensor& v, const Tensor& parameters, const std::string& pooling,
                                                 Index block, const std::optional<Tensor>& sequences);

/// Parameters to start from, for heads as long as the last size of `like`; float32, for a `like` of float64 that.
Tensor initial_pooler(const Tensor& like, const std::string& pooling);

/// o of linear attention; `features` [features, dim], float32: performer's, else elu + 1. See baselines/linear.h.
Tensor linear_attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                const std::optional<Tensor>& features, bool causal, std::optional<double> scale,
                                const std::optional<Tensor>& sequences);

std::tuple<Tensor, Tensor, Tensor> linear_attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                                             const Tensor& v, const Tensor& o,
                                                             const std::optional<Tensor>& features, bool causal,
                                                             std::optional<double> scale,
                                                             const std::optional<Tensor>& sequences);

/// o and the state after, [B or sequences, Hkv, features + 1, d + 1], float32 (float64 if q is).
std::tuple<Tensor, Tensor> linear_attention_step(const Tensor& q, const Tensor& k, const Tensor& v,
                                                 const std::optional<Tensor>& features, std::optional<double> scale,
                                                 const std::optional<Tensor>& state,
                                                 const std::optional<Tensor>& sequences);

/// Fills `out` [features, dim] with performer's features.
void draw_features(const Tensor& out, Index seed);

/// o and lse of linformer; `project_keys` and `project_values` [rank, longest], float32 (float64 if q is). See
/// baselines/linformer.h.
std::tuple<Tensor, Tensor> linformer_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                             const Tensor& project_keys, const Tensor& project_values, Index segment,
                                             bool causal, std::optional<double> scale,
                                             const std::optional<Tensor>& sequences);

/// dq, dk, dv and the gradients of the projections.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> linformer_backward(const Tensor& dout, const Tensor& q,
                                                                      const Tensor& k, const Tensor& v, const Tensor& o,
                                                                      const Tensor& lse, const Tensor& project_keys,
                                                                      const Tensor& project_values, Index segment,
                                                                      bool causal, std::optional<double> scale,
                                                                      const std::optional<Tensor>& sequences);

/// Sequences [count, 5] from offsets, int32 or int64 [count + 1]; the keys' are the queries' if not given.
Tensor packed_sequences(const Tensor& first_queries, const std::optional<Tensor>& first_keys);

/// Sequences [batch, 5] from a bool mask [batch, keys], true where a token is no padding; one run in each row.
Tensor padded_sequences(const Tensor& mask, Index queries);

/// A cache of keys and values (hsattn/cache/cache.h) by its number, to be freed by cache_free(). `dtype`: float32,
/// bfloat16 or float16.
Index cache_new(Index sequences, Index kv_heads, Index dim, const std::string& dtype, const std::string& pattern,
                const Budgets& budgets, Index page, std::optional<bool> rounded_keys);
void cache_free(Index handle);

/// k, v [1, Hkv, n, d] at the end of one sequence, or [sequences, Hkv, n, d] at the end of each.
void cache_append(Index handle, const Tensor& k, const Tensor& v, std::optional<Index> sequence);

/// o [B, H, n, d] and lse [B, H, n] of the last n tokens of these B sequences.
std::tuple<Tensor, Tensor> cache_attend(Index handle, const Tensor& q, const std::vector<Index>& sequences,
                                        const std::string& pattern, const Budgets& budgets,
                                        std::optional<double> scale);

/// k, v [1, Hkv, n, d] of a sequence, of the type of `like`, which must be the cache's.
std::tuple<Tensor, Tensor> cache_tokens(Index handle, const Tensor& like, Index sequence);

void cache_crop(Index handle, Index sequence, Index length);
Index cache_fork(Index handle, Index sequence);
void cache_reorder(Index handle, const std::vector<Index>& parents);
std::vector<Index> cache_lengths(Index handle);
Index cache_bytes(Index handle);
void cache_save(Index handle, const std::string& path);
Index cache_load(const std::string& path);

/// Its dtype, pattern and budgets.
std::tuple<std::string, std::string, Budgets> cache_options(Index handle);

/// Lists [B, Hkv, n, slots], int32: block ids, ascending, then -1.
Tensor make_plan(const Tensor& q, const Tensor& k, const std::string& pattern, bool causal, const Budgets& budgets,
                 std::optional<double> scale, const std::optional<Tensor>& sequences,
                 const std::optional<Tensor>& pooled_k);

/// The options of a preset.
Budgets preset(const std::string& name);
/// The longest past that is attended whole, which is a number for tensors of q's type if the budgets say auto.
Index dense_until(const Tensor& q, const Budgets& budgets);
/// Length of each list.
Index plan_slots(const std::string& pattern, bool causal, const Budgets& budgets);

/// At which level queries [first, first + count) of one head see each token, int8 [count, keys]: -1 not at all, 0 in
/// the near run, 1 in a kept block, 2 + l in a far node of 2^l blocks. `sizes`: batch, kv_heads, queries, keys of the
/// plan.
Tensor plan_map(const Tensor& lists, const std::string& pattern, bool causal, const Budgets& budgets,
                const std::vector<Index>& sizes, Index batch, Index kv_head, Index first, Index count);

/// Shape, budgets, attended tokens; a few lines.
std::string describe_plan(const Tensor& lists, const std::string& pattern, bool causal, const Budgets& budgets,
                          const std::vector<Index>& sizes);

/// Empty if the plan keeps its invariant (no token twice; with the far field each token once), or what is wrong.
std::string check_plan_lists(const Tensor& lists, const std::string& pattern, bool causal, const Budgets& budgets,
                             const std::vector<Index>& sizes);

}  // namespace hsattn::torch_ops
