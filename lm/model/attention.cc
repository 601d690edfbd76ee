#include "lm/model/attention.h"

#include "hsattn/base/error.h"
#include "hsattn/plan/budgets.h"
#include "hsattn/plan/plan.h"
#include "lm/model/ops.h"

namespace hsattn::lm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

AttentionStatistics* statistics_in(AutogradContext* ctx) {
  return reinterpret_cast<AttentionStatistics*>(ctx->saved_data["statistics"].toInt());
}

void keep_statistics(AutogradContext* ctx, AttentionStatistics* statistics) {
  ctx->saved_data["statistics"] = reinterpret_cast<int64_t>(statistics);
}

// Identity at the entrance of attention: the clock starts in forward and stops in backward.
struct Entrance : Function<Entrance> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               AttentionStatistics* statistics) {
    keep_statistics(ctx, statistics);
    statistics->start();
    return {q.view_as(q), k.view_as(k), v.view_as(v)};
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    statistics_in(ctx)->stop();
    return {grads[0], grads[1], grads[2], Tensor()};
  }
};

// Identity at the exit: the clock stops in forward and starts in backward.
struct Exit : Function<Exit> {
  static Tensor forward(AutogradContext* ctx, const Tensor& o, AttentionStatistics* statistics) {
    keep_statistics(ctx, statistics);
    statistics->stop();
    return o.view_as(o);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    statistics_in(ctx)->start();
    return {grads[0], Tensor()};
  }
};

double average_listed_tokens(const Tensor& kept, Index block) {
  if (kept.numel() == 0) return 0;
  const auto* ids = kept.const_data_ptr<int32_t>();
  Index listed = 0;
  for (Index i = 0; i < kept.numel(); ++i) listed += ids[i] >= 0;
  const Index lists = kept.numel() / kept.size(-1);
  return static_cast<double>(listed * block) / static_cast<double>(lists);
}

// A pooler with parameters, flat: from keys and values of tokens to those of nodes.
struct Pool : Function<Pool> {
  static variable_list forward(AutogradContext* ctx, const Tensor& k, const Tensor& v, const Tensor& parameters,
                               const std::string& pooling, Index block) {
    at::AutoDispatchBelowAutograd below;
    ctx->save_for_backward({k, v, parameters});
    ctx->saved_data["pooling"] = pooling;
    ctx->saved_data["block"] = block;
    const Pooled nodes = op_pool_forward(pooling, block, k, v, parameters.view({-1, k.size(3)}));
    return {nodes.k, nodes.v};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    at::AutoDispatchBelowAutograd below;
    const auto [dk, dv, dparameters] =
        op_pool_backward(ctx->saved_data["pooling"].toStringRef(), ctx->saved_data["block"].toInt(),
                         {grads[0], grads[1]}, saved[0], saved[1], saved[2].view({-1, saved[0].size(3)}));
    return {dk, dv, dparameters.flatten(), Tensor(), Tensor()};
  }
};

// autograd takes no undefined tensor for an argument.
std::optional<Tensor> if_defined(const Tensor& x) { return x.defined() ? std::optional(x) : std::nullopt; }

// This library's kernels. The options must outlive the backward pass.
struct OurAttention : Function<OurAttention> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        const std::optional<Tensor>& pooled_k, const std::optional<Tensor>& pooled_v,
                        const PlanOptions& options, bool keep_plan, AttentionStatistics* statistics) {
    at::AutoDispatchBelowAutograd below;
    const Pooled pooled{pooled_k.value_or(Tensor()), pooled_v.value_or(Tensor())};
    const auto [o, lse, kept] = op_forward(options, q, k, v, keep_plan, {}, pooled);
    if (keep_plan) {
      const PlanShape shape = plan_shape(options, type_of(q), q.size(0), k.size(1), q.size(2), k.size(2));
      statistics->add_attended(average_near_tokens(options, type_of(q), k.size(2)) +
                               average_listed_tokens(kept, shape.block));
      ctx->save_for_backward({q, k, v, o, lse, kept, pooled.k, pooled.v});
      ctx->saved_data["options"] = c10::IValue(budgets_of(options.hsa));
      ctx->saved_data["pattern"] = name_of(options.pattern);
    }
    return o;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    PlanOptions options;
    options.pattern = pattern_from_name(ctx->saved_data["pattern"].toStringRef());
    options.hsa = options_of_budgets(ctx->saved_data["options"].toIntVector());
    at::AutoDispatchBelowAutograd below;
    const auto [dq, dk, dv, dpooled] = op_backward(options, grads[0], saved[0], saved[1], saved[2], saved[3], saved[4],
                                                   saved[5], {saved[6], saved[7]});
    const bool pooled = dpooled.k.numel() > 0;
    return {dq, dk, dv, pooled ? dpooled.k : Tensor(), pooled ? dpooled.v : Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

// Key/value heads repeated to one per query head, for attention that knows no groups.
Tensor repeat_heads(const Tensor& x, Index heads) {
  if (x.size(1) == heads) return x;
  return x.unsqueeze(2)
      .expand({x.size(0), x.size(1), heads / x.size(1), x.size(2), x.size(3)})
      .reshape({x.size(0), heads, x.size(2), x.size(3)});
}

// softmax(q k^T / sqrt(d)) v with every score in memory.
Tensor standard_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Index n = q.size(2);
  const Tensor future = at::ones({n, n}, at::kBool).triu_(1);
  const Tensor scores = at::matmul(q, k.transpose(-2, -1)) / std::sqrt(static_cast<double>(q.size(3)));
  return at::matmul(at::softmax(scores.masked_fill(future, -INFINITY), -1), v);
}

}  // namespace

double average_near_tokens(const PlanOptions& options, DType type, Index tokens) {
  const Index heads = std::max<Index>(1, std::ssize(options.hsa.head_top_k));
  const PlanShape shape = plan_shape(options, type, 1, heads, tokens, tokens);
  double sum = 0;
  for (Index p = 0; p < tokens; ++p) sum += static_cast<double>(shape.near(p).size());
  return sum / static_cast<double>(std::max<Index>(tokens, 1));
}

Pooled pooled_by(const AttentionOptions& options, const Tensor& k, const Tensor& v, const Tensor& pooler) {
  if (!pooler.defined() || !options.has_pooler()) return {};
  const bool trained = at::GradMode::is_enabled() && pooler.requires_grad();
  check(!trained || options.hsa.far_field, "attention: the parameters of pooling ", options.pooling,
        " require a gradient, which reaches them through the far field alone, and that is off; set far_field");
  const at::AutoGradMode with_gradient(at::GradMode::is_enabled() && options.hsa.far_field);
  const Index block = plan_shape(options.plan_options(), type_of(k), k.size(0), k.size(1), k.size(2), k.size(2)).block;
  const variable_list nodes = Pool::apply(k, v, pooler, options.pooling, block);
  return {nodes[0], nodes[1]};
}

Tensor initial_pooler(Pooler pooler, Index dim) {
  const Tensor parameters = at::empty({pooler_rows(pooler, dim) * dim}, at::kFloat);
  write_initial_parameters(pooler, dim, DType::kFloat32, parameters.mutable_data_ptr());
  return parameters.requires_grad_();
}

Tensor attend(const AttentionOptions& options, const Tensor& q, const Tensor& k, const Tensor& v,
              AttentionStatistics& statistics, const AttentionTensors& tensors) {
  const auto inside = Entrance::apply(q, k, v, &statistics);
  if (options.ours() || options.baseline()) {
    const bool half =
        std::any_of(inside.begin(), inside.end(), [](const Tensor& x) { return x.dtype() == at::kBFloat16; });
    const auto type = half ? at::kBFloat16 : at::kFloat;  // under autocast some may be one, some the other
    const Tensor queries = inside[0].to(type), keys = inside[1].to(type), values = inside[2].to(type);
    if (options.baseline()) {
      statistics.add_attended(average_attended_tokens(options, q.size(2)));
      return Exit::apply(baseline_attention(options, tensors, queries, keys, values), &statistics);
    }
    const bool keep_plan = at::GradMode::is_enabled();
    const Pooled pooled = pooled_by(options, keys, values, tensors.pooler);
    const Tensor o = OurAttention::apply(queries, keys, values, if_defined(pooled.k), if_defined(pooled.v),
                                         options.plan_options(), keep_plan, &statistics);
    return Exit::apply(o, &statistics);
  }
  statistics.add_attended(static_cast<double>(q.size(2) + 1) / 2);
  const Tensor keys = repeat_heads(inside[1], q.size(1)), values = repeat_heads(inside[2], q.size(1));
  const Tensor o = options.attention == "sdpa"
                       ? at::scaled_dot_product_attention(inside[0], keys, values, {}, 0.0, /*is_causal=*/true)
                       : standard_attention(inside[0], keys, values);
  return Exit::apply(o, &statistics);
}

}  // namespace hsattn::lm
