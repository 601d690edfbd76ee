#include "lm/eval/attention_bench.h"

#include "hsattn/base/error.h"
#include "lm/eval/bench_tensors.h"
#include "lm/eval/check_op.h"
#include "lm/eval/timing.h"
#include "lm/model/attention.h"
#include "lm/options/lists.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

constexpr Index kCheckedRows = 6;       // per head: a check costs little at any length
constexpr double kAllowedError = 2e-4;  // as a share of the largest exact value; float32 gives about 1e-6

void sdpa_forward(const BenchTensors& t, bool grouped) {
  at::scaled_dot_product_attention(t.q, t.k, t.v, {}, 0.0, /*is_causal=*/true, std::nullopt, grouped);
}

void sdpa_both(const BenchTensors& t, bool grouped) {
  const at::AutoGradMode with_gradient(true);
  const Tensor q = t.q.detach().requires_grad_(), k = t.k.detach().requires_grad_(), v = t.v.detach().requires_grad_();
  const Tensor o = at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true, std::nullopt, grouped);
  torch::autograd::grad({o}, {q, k, v}, {t.dout});
}

void ours_both(const PlanOptions& options, const BenchTensors& t) {
  const auto [o, lse, kept] = op_forward(options, t.q, t.k, t.v, /*keep_plan=*/true);
  op_backward(options, t.dout, t.q, t.k, t.v, o, lse, kept);
}

BenchRow bench_length(const BenchOptions& o, Index length) {
  const PlanOptions options = o.attention.plan_options();
  const BenchTensors t = bench_tensors(o, length);
  const bool grouped = t.k.size(1) != t.q.size(1);
  const OpCheck answer = check_op(options, t.q, t.k, t.v, kCheckedRows, o.backward);
  check(answer.forward_error <= kAllowedError && answer.backward_error <= kAllowedError, "bench: wrong answer at ",
        length, " tokens, not timed: error ", answer.forward_error, " forward, ", answer.backward_error,
        " backward; at most ", kAllowedError, " is right");
  std::vector<double> plan, forward, sdpa, both, sdpa_with_backward;
  for (Index i = 0; i < o.repeats; ++i) {
    forward.push_back(milliseconds([&] { op_forward(options, t.q, t.k, t.v, /*keep_plan=*/false); }));
    sdpa.push_back(milliseconds([&] { sdpa_forward(t, grouped); }));
    plan.push_back(milliseconds([&] { plan_of(options, t.q, t.k); }));
    if (!o.backward) continue;
    both.push_back(milliseconds([&] { ours_both(options, t); }));
    sdpa_with_backward.push_back(milliseconds([&] { sdpa_both(t, grouped); }));
  }
  BenchRow row;
  row.length = length;
  row.plan = median(plan);
  row.forward = median(forward);
  row.sdpa_forward = median(sdpa);
  if (o.backward) row.both = median(both), row.sdpa_both = median(sdpa_with_backward);
  row.attended_tokens = answer.attended_tokens;
  row.error_forward = answer.forward_error;
  row.error_backward = answer.backward_error;
  return row;
}

}  // namespace

void check_bench_options(const BenchOptions& o) {
  parse_lengths(o.lengths);
  check(o.batch >= 1, "batch is ", o.batch, "; at least 1 is right");
  check(o.heads >= 1 && o.kv_heads >= 0 && (o.kv_heads == 0 || o.heads % o.kv_heads == 0), "heads is ", o.heads,
        ", kv_heads is ", o.kv_heads, "; a divisor of heads, or 0, is right");
  check(o.dim >= 8 && o.dim <= 256, "dim is ", o.dim, "; 8 to 256 is right");
  check(o.threads >= 0 && o.threads <= 4096, "threads is ", o.threads, "; 0 to 4096 is right");
  check(o.repeats >= 1, "repeats is ", o.repeats, "; at least 1 is right");
  check(o.queries == "correlated" || o.queries == "random" || o.queries.ends_with("q.npy"), "queries is ", o.queries,
        "; correlated, random or a file NAME_q.npy are right");
  check(o.attention.ours(), "pattern is ", o.attention.attention, "; hsa, full or local are right");
  check_attention_options(o.attention);
}

std::vector<BenchRow> bench_attention(const BenchOptions& options, const std::atomic<bool>& interrupted,
                                      const std::function<void(const std::string&)>& progress) {
  check_bench_options(options);
  use_threads(options.threads);
  const at::NoGradGuard no_gradient;  // sdpa_both turns it on for itself
  std::vector<BenchRow> rows;
  for (const Index length : parse_lengths(options.lengths)) {
    if (interrupted) break;
    progress(concat(length, " tokens: checked, then timed ", options.repeats, " times"));
    rows.push_back(bench_length(options, length));
  }
  return rows;
}

}  // namespace hsattn::lm
