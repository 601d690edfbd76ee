// Causal self-attention by name, with its time and the number of attended tokens measured on the way.
#pragma once

#include <chrono>

#include "hsattn/pooling/pooler.h"
#include "lm/model/baselines.h"
#include "lm/model/config.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

/// What attention cost since the last reset; one model, one thread.
struct AttentionStatistics {
  double seconds = 0;   ///< forward, backward and recomputation, from q, k, v to the output
  double attended = 0;  ///< sum over `calls` of the tokens that a position attends on average; pooled nodes not counted
  Index calls = 0;      ///< that counted them: without gradient, this library's kernels keep no lists to count

  double attended_per_call() const { return calls == 0 ? 0 : attended / static_cast<double>(calls); }
  void add_attended(double tokens) { attended += tokens, ++calls; }
  void start() { started_ = std::chrono::steady_clock::now(); }
  void stop() { seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count(); }

 private:
  std::chrono::steady_clock::time_point started_;
};

/// Tokens that a position attends on average when all `tokens` are given at once, without lists: the near run.
double average_near_tokens(const PlanOptions& options, DType type, Index tokens);

/// The tensor of parameters of a pooler that training starts from, flat, so that AdamW does not let it decay.
at::Tensor initial_pooler(Pooler pooler, Index dim);

/// q [B, H, n, d], k and v [B, Hkv, n, d], last stride 1, float32 or (under autocast) bfloat16 -> [B, H, n, d], float32
/// from this library's kernels, otherwise the type that torch chooses. Differentiable. Times itself into `statistics`,
/// which must outlive the backward pass.
/// Throws InvalidArgument if the pooler requires a gradient and the far field, through which it gets one, is off;
/// Unsupported if the name needs ops that this program was built without.
at::Tensor attend(const AttentionOptions& options, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  AttentionStatistics& statistics, const AttentionTensors& tensors = {});

/// What a pooler makes, [B, Hkv, nodes, d]; undefined where the call pools.
struct Pooled {
  at::Tensor k, v;
};

/// The nodes that tokens attend, made by a pooler's parameters; differentiable. Undefined if the pooling has none.
Pooled pooled_by(const AttentionOptions& options, const at::Tensor& k, const at::Tensor& v, const at::Tensor& pooler);

/// Lists of the pattern: int32 [B, Hkv, n, slots], block ids, -1 at the end.
at::Tensor plan_of(const PlanOptions& options, const at::Tensor& q, const at::Tensor& k, const Pooled& pooled = {});

/// The pooler's ops, without autograd. parameters [rows, d].
Pooled op_pool_forward(const std::string& pooling, Index block, const at::Tensor& k, const at::Tensor& v,
                       const at::Tensor& parameters);
std::tuple<at::Tensor, at::Tensor, at::Tensor> op_pool_backward(const std::string& pooling, Index block,
                                                                const Pooled& dpooled, const at::Tensor& k,
                                                                const at::Tensor& v, const at::Tensor& parameters);

/// Forward and backward of the ops as they are, without autograd: for benchmarks and self-checks. Without `plan` the op
/// chooses its own.
std::tuple<at::Tensor, at::Tensor, at::Tensor> op_forward(const PlanOptions& options, const at::Tensor& q,
                                                          const at::Tensor& k, const at::Tensor& v, bool keep_plan,
                                                          const std::optional<at::Tensor>& plan = {},
                                                          const Pooled& pooled = {});

struct OpGradients {
  at::Tensor dq, dk, dv;
  Pooled dpooled;  ///< no elements unless nodes are given and the far field is on
};
OpGradients op_backward(const PlanOptions& options, const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                        const at::Tensor& v, const at::Tensor& o, const at::Tensor& lse, const at::Tensor& kept,
                        const Pooled& pooled = {});

}  // namespace hsattn::lm
