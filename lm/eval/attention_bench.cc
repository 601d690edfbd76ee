#include "lm/eval/attention_bench.h"

#include <malloc.h>

#include "hsattn/base/error.h"
#include "lm/eval/bench_tensors.h"
#include "lm/eval/check_op.h"
#include "lm/eval/decode_bench.h"
#include "lm/eval/timing.h"
#include "lm/model/attention.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

constexpr Index kCheckedRows = 6;            // per head: a check costs little at any length
constexpr double kAllowedError = 2e-4;       // as a share of the largest exact value; float32 gives about 1e-6
constexpr double kBf16Place = 1.0 / 128;     // one unit in the last place of bfloat16, as a share of a value, at most
constexpr Index kBf16Tokens = 8192;          // on how many of the first tokens SDPA's error in bfloat16 is measured
constexpr double kShortMs = 200;             // turns are repeated for so long, however many that are
constexpr double kLongMs = 30'000;           // and no turn begins after so long, however few there were
constexpr double kTellableMemory = 1 << 23;  // bytes of inputs and outputs; with less, noise of the allocator counts

// What one call returns: its memory counts as output.
using Outputs = std::vector<Tensor>;

// Linear attention or performer's.
Outputs run_linear(const BenchCase& c, const BenchTensors& t) {
  const auto features = t.features.defined() ? std::optional(t.features) : std::nullopt;
  const Tensor o = linear_op_forward(t.q, t.k, t.v, features);
  if (!c.backward) return {o};
  const auto [dq, dk, dv] = linear_op_backward(t.dout, t.q, t.k, t.v, o, features);
  return {o, dq, dk, dv};
}

Outputs run_ours(const BenchCase& c, const PlanOptions& options, const BenchTensors& t) {
  if (c.attention.baseline()) return run_linear(c, t);
  const auto [o, lse, kept] = op_forward(options, t.q, t.k, t.v, /*keep_plan=*/c.backward);
  if (!c.backward) return {o, lse};
  const auto [dq, dk, dv, none] = op_backward(options, t.dout, t.q, t.k, t.v, o, lse, kept);
  return {o, lse, dq, dk, dv};
}

void run_sdpa(const BenchCase& c, const BenchTensors& t) {
  const at::AutoGradMode with_gradient(c.backward);
  const auto leaf = [&](const Tensor& x) { return c.backward ? x.detach().requires_grad_() : x; };
  const Tensor q = leaf(t.q), k = leaf(t.k), v = leaf(t.v);
  const Tensor o = causal_sdpa(q, k, v);
  if (c.backward) torch::autograd::grad({o}, {q, k, v}, {t.dout});
}

BenchTensors first_tokens(const BenchTensors& t, Index count) {
  const auto cut = [&](const Tensor& x) { return x.defined() ? x.slice(2, 0, count).contiguous() : x; };
  return {cut(t.q), cut(t.k), cut(t.v), cut(t.dout), t.features};
}

double bytes_of(const Outputs& tensors) {
  double bytes = 0;
  for (const Tensor& x : tensors) bytes += x.defined() ? static_cast<double>(x.nbytes()) : 0;
  return bytes;
}

// Why the case cannot run here; empty if it can.
std::string obstacle(const BenchCase& c) {
  const Index processors = use_threads(0);
  if (c.one_thread && c.threads > processors)
    return concat(c.threads, " threads, but this process may use ", processors);
  return "";
}

double larger_error(const OpCheck& answer) { return std::max(answer.forward_error, answer.backward_error); }

// In bfloat16 twice SDPA's own error, which is that of the type, and one unit in the last place.
double allowed_error(const BenchCase& c, const BenchTensors& t) {
  if (!c.bf16) return kAllowedError;
  const BenchTensors first = first_tokens(t, std::min(c.length, kBf16Tokens));
  return 2 * larger_error(check_causal_sdpa(first.q, first.k, first.v, kCheckedRows, c.backward)) + kBf16Place;
}

void check_answer(const PlanOptions& options, const BenchTensors& t, BenchRow& row) {
  const bool backward = row.which.backward;
  const OpCheck answer = row.which.attention.baseline()
                             ? check_linear(t.q, t.k, t.v, t.features, kCheckedRows, backward)
                             : check_op(options, t.q, t.k, t.v, kCheckedRows, backward);
  row.error = larger_error(answer);
  row.allowed_error = allowed_error(row.which, t);
  row.attended_tokens = answer.attended_tokens;
  check(row.error <= row.allowed_error, "bench: wrong answer of ", row.which.name, ", not timed: error ",
        answer.forward_error, " forward, ", answer.backward_error, " backward; at most ", row.allowed_error,
        " is right");
}

// The process' peak during one call, less what it held before and the outputs.
void measure_memory(const PlanOptions& options, const BenchTensors& t, BenchRow& row) {
  ::malloc_trim(0);  // what earlier calls freed must not be reused unseen
  const double before = resident_memory_mib();
  if (!forget_peak_memory()) return;
  const double outputs = bytes_of(run_ours(row.which, options, t));
  const double known = bytes_of({t.q, t.k, t.v, t.dout}) + outputs;
  const double extra = (peak_memory_mib() - before) * (1 << 20) - outputs;
  if (known >= kTellableMemory) row.memory = std::max(extra, 0.0) / known;
}

struct Times {
  std::vector<double> ours, sdpa, one_thread, plan, attend;
};

void time_once(const PlanOptions& options, const BenchTensors& t, const BenchTensors& short_t, const BenchRow& row,
               Times& times) {
  const BenchCase& c = row.which;
  times.ours.push_back(milliseconds([&] { run_ours(c, options, t); }));
  if (!c.sdpa) return;
  times.sdpa.push_back(milliseconds([&] { run_sdpa(c, short_t); }));
  if (c.attention.attention != "hsa" || c.backward) return;
  Tensor plan;
  times.plan.push_back(milliseconds([&] { plan = plan_of(options, t.q, t.k); }));
  times.attend.push_back(milliseconds([&] { op_forward(options, t.q, t.k, t.v, /*keep_plan=*/false, plan); }));
}

void time_one_thread(const PlanOptions& options, const BenchTensors& t, const BenchRow& row, Times& times) {
  use_threads(1);
  times.one_thread.push_back(milliseconds([&] { run_ours(row.which, options, t); }));
  use_threads(row.threads);
}

double flop_of_full(const BenchCase& c) {
  const auto n = static_cast<double>(c.length);
  return (c.backward ? 14 : 4) * static_cast<double>(c.dim * c.heads * c.batch) * n * (n + 1) / 2;
}

double median_or_zero(const std::vector<double>& values) { return values.empty() ? 0 : median(values); }

void time_case(const PlanOptions& options, const BenchTensors& t, Index repeats, BenchRow& row) {
  const Index length = t.q.size(2), sdpa_length = std::min(length, kLongestSdpa);
  row.extrapolated = row.which.sdpa && sdpa_length < length;
  const BenchTensors short_t = row.extrapolated ? first_tokens(t, sdpa_length) : t;
  Times times;
  for (double spent = 0; (row.turns < repeats && spent < kLongMs) || spent < kShortMs; ++row.turns) {
    spent += milliseconds([&] {
      time_once(options, t, short_t, row, times);
      if (row.which.one_thread) time_one_thread(options, t, row, times);
    });
  }
  const double longer = static_cast<double>(length) / static_cast<double>(sdpa_length);
  row.ours = median(times.ours);
  row.sdpa = median_or_zero(times.sdpa) * longer * longer;
  row.one_thread = median_or_zero(times.one_thread);
  row.plan = median_or_zero(times.plan);
  row.attend = median_or_zero(times.attend);
  if (row.which.attention.attention == "full") row.gflops = flop_of_full(row.which) / row.ours / 1e6;
}

BenchRow run_case(const BenchCase& c, Index repeats) {
  BenchRow row;
  row.which = c;
  row.skipped = obstacle(c);
  if (!row.skipped.empty()) return row;
  row.threads = use_threads(c.threads);
  const PlanOptions options = c.attention.ours() ? c.attention.plan_options() : PlanOptions();
  const BenchTensors t = bench_tensors(c);
  row.which.batch = t.q.size(0), row.which.heads = t.q.size(1), row.which.kv_heads = t.k.size(1);
  row.which.dim = t.q.size(3);  // recorded tensors have their own
  if (c.decode) {
    row.allowed_error = c.bf16 ? 2 * kBf16Place : kAllowedError;
    check_decode(options, t, row);
    time_decode(options, t, repeats, row);
    return row;
  }
  check_answer(options, t, row);
  measure_memory(options, t, row);
  time_case(options, t, repeats, row);
  return row;
}

}  // namespace

std::vector<BenchRow> bench_attention(const std::vector<BenchCase>& cases, Index repeats,
                                      const std::atomic<bool>& interrupted,
                                      const std::function<void(const std::string&)>& progress) {
  const at::NoGradGuard no_gradient;  // run_sdpa turns it on for itself
  std::vector<BenchRow> rows;
  for (const BenchCase& c : cases) {
    if (interrupted) break;
    progress(concat(rows.size() + 1, " of ", cases.size(), ": ", c.name));
    rows.push_back(run_case(c, repeats));
  }
  return rows;
}

}  // namespace hsattn::lm
