#include "lm/eval/decode_bench.h"

#include <algorithm>

#include "hsattn/base/error.h"
#include "hsattn/cache/cache.h"
#include "lm/eval/check_op.h"
#include "lm/eval/timing.h"
#include "lm/model/attention.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

constexpr Index kSteps = 16;     // queries of a turn, neighbours as in decoding
constexpr double kTurns = 1000;  // milliseconds in which turns are repeated, at least `repeats` times

template <class Pointer>
BasicView<Pointer> view_of(Pointer data, const Tensor& x) {
  const DType type = x.scalar_type() == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  return {data, type, x.size(0), x.size(1), x.size(2), x.size(3), x.stride(0), x.stride(1), x.stride(2)};
}
ConstView const_view_of(const Tensor& x) { return view_of<const void*>(x.const_data_ptr(), x); }

KeyValueCache cache_of(const PlanOptions& options, const BenchTensors& t) {
  const ConstView k = const_view_of(t.k);
  KeyValueCache cache({.kv_heads = k.heads, .dim = k.dim, .dtype = k.dtype, .plan = options}, k.batch);
  cache.append(k, const_view_of(t.v));
  return cache;
}

// The last queries, [B, H, 1, d] each.
std::vector<Tensor> newest_queries(const BenchTensors& t) {
  const Index count = std::min(kSteps, t.q.size(2)), first = t.q.size(2) - count;
  std::vector<Tensor> queries;
  for (Index i = first; i < first + count; ++i) queries.push_back(t.q.slice(2, i, i + 1).contiguous());
  return queries;
}

Tensor attend(KeyValueCache& cache, const Tensor& q) {
  const Tensor o = at::empty_like(q);
  cache.attend(const_view_of(q), {}, {view_of<void*>(o.mutable_data_ptr(), o)});
  return o;
}

// Keys and values for one of SDPA's ways.
struct SdpaWay {
  Tensor k, v;
  bool grouped;

  double milliseconds_of(const std::vector<Tensor>& queries) const {
    const double all = milliseconds([&] {
      for (const Tensor& q : queries) at::scaled_dot_product_attention(q, k, v, {}, 0.0, false, std::nullopt, grouped);
    });
    return all / static_cast<double>(queries.size());
  }
};

SdpaWay faster_way(const BenchTensors& t, const std::vector<Tensor>& queries) {
  const Index group = t.q.size(1) / t.k.size(1);
  SdpaWay expanded{t.k.repeat_interleave(group, 1), t.v.repeat_interleave(group, 1), false};
  const SdpaWay grouped{t.k, t.v, true};
  if (group == 1) return expanded;
  std::vector<double> times[2];
  for (int i = 0; i < 4; ++i) {
    times[0].push_back(expanded.milliseconds_of(queries));
    times[1].push_back(grouped.milliseconds_of(queries));
  }
  return median(times[0]) < median(times[1]) ? expanded : grouped;
}

}  // namespace

void check_decode(const PlanOptions& options, const BenchTensors& t, BenchRow& row) {
  KeyValueCache cache = cache_of(options, t);
  for (const Tensor& q : newest_queries(t)) {
    const auto [o, lse, kept] = op_forward(options, q, t.k, t.v, /*keep_plan=*/false);
    check(at::equal(attend(cache, q), o), "bench: wrong answer of ", row.which.name,
          ", not timed: the cache gives something else than attention over the whole");
    const OpCheck answer = check_op(options, q, t.k, t.v, 1, /*backward=*/false);
    row.error = std::max(row.error, answer.forward_error);
    row.attended_tokens = answer.attended_tokens;
  }
  check(row.error <= row.allowed_error, "bench: wrong answer of ", row.which.name, ", not timed: error ", row.error,
        "; at most ", row.allowed_error, " is right");
}

void time_decode(const PlanOptions& options, const BenchTensors& t, Index repeats, BenchRow& row) {
  KeyValueCache cache = cache_of(options, t);
  const double plain = static_cast<double>(t.k.nbytes() + t.v.nbytes());
  row.memory = static_cast<double>(cache.bytes()) / plain - 1;
  const std::vector<Tensor> queries = newest_queries(t);
  const SdpaWay sdpa = faster_way(t, queries);
  std::vector<double> ours, theirs;
  for (double spent = 0; row.turns < repeats || spent < kTurns; ++row.turns) {
    const double steps = milliseconds([&] {
      for (const Tensor& q : queries) attend(cache, q);
    });
    ours.push_back(steps / static_cast<double>(queries.size()));
    theirs.push_back(sdpa.milliseconds_of(queries));
    spent += steps + theirs.back() * static_cast<double>(queries.size());
  }
  row.ours = median(ours);
  row.sdpa = median(theirs);
}

}  // namespace hsattn::lm
