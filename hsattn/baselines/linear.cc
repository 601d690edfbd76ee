#include "hsattn/baselines/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "hsattn/attention/checks.h"
#include "hsattn/base/error.h"
#include "hsattn/baselines/calls.h"
#include "hsattn/baselines/linear_reference.h"
#include "hsattn/baselines/scan.h"

namespace hsattn {
namespace {

using cpu::ScanJob;

void check_map(const char* who, const AttentionInputs& in, const FeatureMap& map) {
  if (map.projection == nullptr) {
    check(!in.scale, who, ": scale is ", in.scale.value_or(0), "; elu + 1 has none");
    return;
  }
  check(map.features >= 1 && map.features <= 65536, who, ": features is ", map.features, "; 1 to 65536 is right");
  check(!in.scale || *in.scale > 0, who, ": scale is ", in.scale.value_or(0), "; it must be positive");
}

void check_state(const char* who, const AttentionInputs& in, const FeatureMap& map, const LinearState& state,
                 const View& o, Index sequences) {
  const Index elements = linear_state_elements(in, map, sequences);
  check(state.after != nullptr || elements == 0, who, ": the state after has no memory");
  const DType type = lse_type(in.q.dtype);
  const Bytes after = bytes_of("the state after", state.after, elements, type);
  check_apart(who, after,
              {bytes_of("q", in.q), bytes_of("k", in.k), bytes_of("v", in.v), bytes_of("o", as_const(o)),
               bytes_of("the projection", map.projection, map.features * in.q.dim, DType::kFloat32)});
  const Bytes before = bytes_of("the state before", state.before, elements, type);
  check_apart(who, bytes_of("o", as_const(o)), {before});
  if (state.before != state.after) check_apart(who, after, {before});
}

bool runs_on_reference(const AttentionInputs& in) { return in.q.dtype == DType::kFloat64; }

ScanJob scan_job(const AttentionInputs& in, const cpu::PackedFeatures& features, bool causal, const HeadOfCall& head) {
  ScanJob job;
  job.features = &features;
  job.causal = causal;
  job.group = head.group;
  job.q = head.queries_of(in.q);
  job.k = head.keys_of(in.k);
  job.v = head.keys_of(in.v);
  return job;
}

// Without queries, as of a call without query heads.
reference::LinearHead keys_alone(const AttentionInputs& in, const LinearOptions& options, const HeadOfCall& head) {
  return {{},          head.key_rows<const double>(in.k),    head.key_rows<const double>(in.v),
          options.map, scale_or_default(in.scale, in.q.dim), options.causal};
}

reference::LinearHead reference_head(const AttentionInputs& in, const LinearOptions& options, const HeadOfCall& head,
                                     Index g) {
  reference::LinearHead one = keys_alone(in, options, head);
  one.q = head.query_rows<const double>(in.q, g);
  return one;
}

void forward(const AttentionInputs& in, std::span<const Sequence> sequences, const LinearOptions& options,
             const View& o, Executor& executor) {
  const cpu::PackedFeatures features(options.map, in.q.dim, scale_or_default(in.scale, in.q.dim));
  clear_rows(o, queries_that_see_nothing("linear_attention_forward", in, sequences, options.causal));
  for_each_head(in, sequences, executor, [&](const HeadOfCall& head) {
    if (runs_on_reference(in)) {
      for (Index g = 0; g < head.group; ++g) {
        reference::linear_forward(reference_head(in, options, head, g), nullptr, nullptr,
                                  head.query_rows<double>(o, g));
      }
      return;
    }
    cpu::ScanScratch scratch(features);
    cpu::scan_kernels_for(selected_isa())
        .forward(scan_job(in, features, options.causal, head), head.queries_of(o), scratch);
  });
}

void backward(const AttentionInputs& in, std::span<const Sequence> sequences, const LinearOptions& options,
              const ConstView& dout, const ConstView& o, const AttentionGradients& grads, Executor& executor) {
  constexpr const char* kWho = "linear_attention_backward";
  const cpu::PackedFeatures features(options.map, in.q.dim, scale_or_default(in.scale, in.q.dim));
  const std::vector<BatchRange> unused = keys_of_none(kWho, in, sequences);  // what is refused is not written to
  clear_rows(grads.dq, queries_that_see_nothing(kWho, in, sequences, options.causal));
  clear_rows(grads.dk, unused);
  clear_rows(grads.dv, unused);
  for_each_head(in, sequences, executor, [&](const HeadOfCall& head) {
    if (runs_on_reference(in)) {
      const auto dk = head.key_rows<double>(grads.dk), dv = head.key_rows<double>(grads.dv);
      for (Index j = 0; j < dk.count; ++j) {
        std::fill_n(dk.row(j), dk.dim, 0.0);
        std::fill_n(dv.row(j), dv.dim, 0.0);
      }
      for (Index g = 0; g < head.group; ++g) {
        reference::linear_backward(reference_head(in, options, head, g), head.query_rows<const double>(dout, g),
                                   head.query_rows<double>(grads.dq, g), dk, dv);
      }
      return;
    }
    const ScanJob job = scan_job(in, features, options.causal, head);
    const cpu::ScanBackwardJob gradients{head.queries_of(dout), head.queries_of(o), head.queries_of(grads.dq),
                                         head.keys_of(grads.dk), head.keys_of(grads.dv)};
    cpu::ScanBackwardScratch scratch(features, options.causal ? ceil_div(job.keys(), cpu::kChunk) : 0);
    cpu::scan_kernels_for(selected_isa()).backward(job, gradients, scratch);
  });
}

// One head's state between its public form and that of the kernels.
class StateOfHead {
 public:
  StateOfHead(const cpu::PackedFeatures& features, const LinearState& state, Index head)
      : f_(features), offset_(head * (f_.count + 1) * (f_.dim + 1)), state_(state) {}

  void read(cpu::ScanState& to) const {
    const float* from = state_.before == nullptr ? nullptr : static_cast<const float*>(state_.before) + offset_;
    if (from == nullptr || from[f_.dim] == 0) return;
    for (Index f = 0; f < f_.count; ++f, from += f_.dim + 1) {
      std::copy_n(from, f_.dim, to.sums.get() + f * f_.padded_dim);
      to.totals[f] = from[f_.dim];
    }
    to.exponent = from[0];
    to.empty = false;
  }

  void write(const cpu::ScanState& from) const {
    float* to = static_cast<float*>(state_.after) + offset_;
    for (Index f = 0; f < f_.count; ++f, to += f_.dim + 1) {
      std::copy_n(from.sums.get() + f * f_.padded_dim, f_.dim, to);
      to[f_.dim] = from.totals[f];
    }
    std::fill_n(to, f_.dim + 1, 0.0F);
    if (!from.empty) to[0] = from.exponent;
  }

 private:
  const cpu::PackedFeatures& f_;
  Index offset_;
  const LinearState& state_;
};

// Forward from states.
void step(const AttentionInputs& in, std::span<const Sequence> sequences, const FeatureMap& map,
          const LinearState& state, const View& o, Executor& executor) {
  clear_rows(o, queries_that_see_nothing("linear_attention_step", in, sequences, false));
  const cpu::PackedFeatures features(map, in.q.dim, scale_or_default(in.scale, in.q.dim));
  const LinearOptions options{map, true};
  const auto go_on = [&](const HeadOfCall& head) {
    const Index number = head.number * in.k.heads + head.kv_head;
    if (runs_on_reference(in)) {
      const Index offset = number * (features.count + 1) * (features.dim + 1);
      const auto* before = state.before == nullptr ? nullptr : static_cast<const double*>(state.before) + offset;
      const auto run = [&](const reference::LinearHead& one, double* after, const Rows<double>& rows) {
        reference::linear_forward(one, before, after, rows);
      };
      double* const after = static_cast<double*>(state.after) + offset;
      for (Index g = 0; g < head.group; ++g) {
        run(reference_head(in, options, head, g), g + 1 < head.group ? nullptr : after, head.query_rows<double>(o, g));
      }
      if (head.group == 0) run(keys_alone(in, options, head), after, {});
      return;
    }
    const StateOfHead of_head(features, state, number);
    cpu::ScanScratch scratch(features);
    of_head.read(scratch.state);
    cpu::scan_kernels_for(selected_isa()).forward(scan_job(in, features, true, head), head.queries_of(o), scratch);
    of_head.write(scratch.state);
  };
  for_each_head(in, sequences, executor, go_on, Heads::kAll);
}

}  // namespace

void linear_attention_forward(const AttentionInputs& in, std::span<const Sequence> sequences,
                              const LinearOptions& options, const View& o, Executor& executor) {
  constexpr const char* kWho = "linear_attention_forward";
  check_inputs_without_nodes(kWho, in);
  check_map(kWho, in, options.map);
  check_sequences(kWho, sequences, in.q.batch, in.q.tokens, in.k.tokens);
  check_outputs(kWho, in, {o});
  with_memory_errors(kWho, kHeads, [&] { forward(in, sequences, options, o, executor); });
}

void linear_attention_forward(const AttentionInputs& in, const LinearOptions& options, const View& o,
                              Executor& executor) {
  linear_attention_forward(in, whole_sequences(in), options, o, executor);
}

void linear_attention_backward(const AttentionInputs& in, std::span<const Sequence> sequences,
                               const LinearOptions& options, const ConstView& dout, const ConstView& o,
                               const AttentionGradients& grads, Executor& executor) {
  constexpr const char* kWho = "linear_attention_backward";
  check_inputs_without_nodes(kWho, in);
  check_map(kWho, in, options.map);
  check_sequences(kWho, sequences, in.q.batch, in.q.tokens, in.k.tokens);
  check_gradients(kWho, in, {dout, o}, grads);
  with_memory_errors(kWho, kHeads, [&] { backward(in, sequences, options, dout, o, grads, executor); });
}

void linear_attention_backward(const AttentionInputs& in, const LinearOptions& options, const ConstView& dout,
                               const ConstView& o, const AttentionGradients& grads, Executor& executor) {
  linear_attention_backward(in, whole_sequences(in), options, dout, o, grads, executor);
}

Index linear_state_elements(const AttentionInputs& in, const FeatureMap& map, std::optional<Index> sequences) {
  return sequences.value_or(in.k.batch) * in.k.heads * (map.count(in.k.dim) + 1) * (in.k.dim + 1);
}

void linear_attention_step(const AttentionInputs& in, std::span<const Sequence> sequences, const FeatureMap& map,
                           const LinearState& state, const View& o, Executor& executor) {
  constexpr const char* kWho = "linear_attention_step";
  check_inputs_without_nodes(kWho, in);
  check_map(kWho, in, map);
  check_sequences(kWho, sequences, in.q.batch, in.q.tokens, in.k.tokens);
  check_outputs(kWho, in, {o});
  for (const Sequence& s : sequences) {
    check(s.queries.size() <= s.keys.size(), kWho, ": there are ", s.queries.size(), " queries and ", s.keys.size(),
          " keys; the queries must be the last of the keys");
  }
  check_state(kWho, in, map, state, o, std::ssize(sequences));
  with_memory_errors(kWho, kHeads, [&] { step(in, sequences, map, state, o, executor); });
}

void linear_attention_step(const AttentionInputs& in, const FeatureMap& map, const LinearState& state, const View& o,
                           Executor& executor) {
  linear_attention_step(in, whole_sequences(in), map, state, o, executor);
}

}  // namespace hsattn
