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
std::tuple<Tensor, Tensor, Tensor> attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                                     const std::optional<Tensor>& plan, const std::string& pattern,
                                                     bool causal, const Budgets& budgets, std::optional<double> scale,
                                                     bool keep_plan);

/// dq, dk, dv, with the plan held fixed. `kept`: lists of the forward pass, or an empty tensor: they are found again,
/// bit-equal.
std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor& dout, const Tensor& q, const Tensor& k,
                                                      const Tensor& v, const Tensor& o, const Tensor& lse,
                                                      const Tensor& kept, const std::string& pattern, bool causal,
                                                      const Budgets& budgets, std::optional<double> scale);

/// Lists [B, Hkv, n, slots], int32: block ids, ascending, then -1.
Tensor make_plan(const Tensor& q, const Tensor& k, const std::string& pattern, bool causal, const Budgets& budgets,
                 std::optional<double> scale);

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
