#include "hsattn/baselines/linformer.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "hsattn/attention/checks.h"
#include "hsattn/base/error.h"
#include "hsattn/baselines/calls.h"
#include "hsattn/baselines/linformer_job.h"
#include "hsattn/baselines/linformer_reference.h"
#include "hsattn/baselines/scan.h"
#include "hsattn/kernels/cpu/layout.h"

namespace hsattn {
namespace {

void check_options(const char* who, const AttentionInputs& in, std::span<const Sequence> sequences,
                   const LinformerOptions& options) {
  const Projections& p = options.projections;
  check(p.rank >= 1 && p.rank <= 65536, who, ": rank is ", p.rank, "; 1 to 65536 is right");
  check(p.longest >= 1 && p.longest <= Index{1} << 32, who, ": longest is ", p.longest, "; 1 to 2^32 is right");
  check(p.keys != nullptr && p.values != nullptr, who, ": a projection has no memory");
  check(!options.causal || (options.segment >= 1 && options.segment <= Index{1} << 32), who, ": segment is ",
        options.segment, "; 1 to 2^32 is right");
  check_sequences(who, sequences, in.q.batch, in.q.tokens, in.k.tokens);
  for (const Sequence& s : sequences) {
    check(s.keys.size() <= p.longest, who, ": a sequence has ", s.keys.size(),
          " keys; the projections are made for at most ", p.longest);
  }
}

std::array<Bytes, 2> projections_of(const AttentionInputs& in, const LinformerOptions& options) {
  const Projections& p = options.projections;
  const Index elements = p.rank * p.longest;
  const DType type = lse_type(in.q.dtype);
  return {bytes_of("the projection of keys", p.keys, elements, type),
          bytes_of("the projection of values", p.values, elements, type)};
}

void check_projection_gradients(const char* who, const AttentionInputs& in, const LinformerOptions& options,
                                const AttentionSaved& saved, const AttentionGradients& grads,
                                const ProjectionGradients& projection_grads) {
  check(projection_grads.keys != nullptr && projection_grads.values != nullptr, who,
        ": the gradient of a projection has no memory");
  const Index elements = options.projections.rank * options.projections.longest;
  const DType type = lse_type(in.q.dtype);
  const Bytes de = bytes_of("the gradient of the projection of keys", projection_grads.keys, elements, type);
  const Bytes df = bytes_of("the gradient of the projection of values", projection_grads.values, elements, type);
  const Bytes dq = bytes_of("dq", as_const(grads.dq)), dk = bytes_of("dk", as_const(grads.dk)),
              dv = bytes_of("dv", as_const(grads.dv));
  const auto [keys, values] = projections_of(in, options);
  for (const Bytes& written : {dq, dk, dv, de, df}) check_apart(who, written, {keys, values});
  for (const Bytes& written : {de, df}) {
    check_apart(who, written,
                {bytes_of("q", in.q), bytes_of("k", in.k), bytes_of("v", in.v), bytes_of("dout", saved.dout),
                 bytes_of("o", saved.o), bytes_of_lse(saved.lse, in.q), dq, dk, dv});
  }
  check_apart(who, de, {df});
}

LinformerShape shape_of(const LinformerOptions& options, const Sequence& s) {
  return {s.queries.size(), s.keys.size(), options.projections.rank, options.segment, options.causal};
}

bool runs_on_reference(const AttentionInputs& in) { return in.q.dtype == DType::kFloat64; }

// Where lse of a head's first query lies in [batch, heads, queries].
Index lse_offset(const AttentionInputs& in, const HeadOfCall& head, Index g) {
  return (head.sequence.batch * in.q.heads + head.first_query_head() + g) * in.q.tokens + head.sequence.queries.begin;
}

template <class T>
T* at_offset(const void* data, Index offset) {
  return data == nullptr ? nullptr : static_cast<T*>(const_cast<void*>(data)) + offset;
}

cpu::LinformerJob job_of(const AttentionInputs& in, const LinformerOptions& options, const HeadOfCall& head,
                         const void* lse) {
  const Projections& p = options.projections;
  return {shape_of(options, head.sequence),
          head.group,
          in.q.dim,
          round_up(in.q.dim, cpu::kDimAlign),
          static_cast<float>(scale_or_default(in.scale, in.q.dim)),
          static_cast<const float*>(p.keys),
          static_cast<const float*>(p.values),
          p.longest,
          head.queries_of(in.q),
          head.keys_of(in.k),
          head.keys_of(in.v),
          {at_offset<float>(lse, lse_offset(in, head, 0)), in.q.tokens}};
}

reference::LinformerHead reference_head(const AttentionInputs& in, const LinformerOptions& options,
                                        const HeadOfCall& head, Index g) {
  const Projections& p = options.projections;
  return {shape_of(options, head.sequence),
          head.query_rows<const double>(in.q, g),
          head.key_rows<const double>(in.k),
          head.key_rows<const double>(in.v),
          {static_cast<const double*>(p.keys), p.rank, p.longest, p.longest},
          {static_cast<const double*>(p.values), p.rank, p.longest, p.longest},
          scale_or_default(in.scale, in.q.dim)};
}

void backward_on_reference(const AttentionInputs& in, std::span<const Sequence> sequences,
                           const LinformerOptions& options, const AttentionSaved& saved,
                           const AttentionGradients& grads, const ProjectionGradients& projection_grads) {
  const Projections& p = options.projections;
  const Rows<double> de{static_cast<double*>(projection_grads.keys), p.rank, p.longest, p.longest};
  const Rows<double> df{static_cast<double*>(projection_grads.values), p.rank, p.longest, p.longest};
  for_each_head(in, sequences, serial_executor(), [&](const HeadOfCall& head) {
    const auto dk = head.key_rows<double>(grads.dk), dv = head.key_rows<double>(grads.dv);
    for (Index j = 0; j < dk.count; ++j) {
      std::fill_n(dk.row(j), dk.dim, 0.0);
      std::fill_n(dv.row(j), dv.dim, 0.0);
    }
    for (Index g = 0; g < head.group; ++g) {
      reference::linformer_backward(reference_head(in, options, head, g), head.query_rows<const double>(saved.dout, g),
                                    {head.query_rows<double>(grads.dq, g), dk, dv, de, df});
    }
  });
}

// What a head's backward leaves for the gradients of the projections.
struct DProjected {
  HeadOfCall head;
  Buffer<float> keys, values;  // [pieces * rank, padded dim]
};

// Adds up the heads' parts, in their order, for 64 columns at a time.
void projection_gradients(const AttentionInputs& in, const LinformerOptions& options,
                          const std::vector<DProjected>& heads, const ProjectionGradients& grads, Executor& executor) {
  const Projections& p = options.projections;
  const Index padded = round_up(in.q.dim, cpu::kDimAlign), kColumns = cpu::kChunk;
  executor.run(ceil_div(p.longest, kColumns), [&](Index task) {
    const Buffer<float> work = cpu::zeros(kColumns * (2 * padded + p.rank));
    for (const DProjected& part : heads) {
      const LinformerShape shape = shape_of(options, part.head.sequence);
      for (Index number = 0; number < shape.pieces(); ++number) {
        // The piece's columns of this task; pieces need not begin at multiples of 64.
        const Range piece = shape.piece(number);
        const Index begin = std::max(piece.begin, task * kColumns), end = std::min(piece.end, (task + 1) * kColumns);
        if (begin >= end) continue;
        cpu::PieceOfHead rows{part.keys.get() + number * p.rank * padded, part.values.get() + number * p.rank * padded,
                              part.head.keys_of(in.k), part.head.keys_of(in.v)};
        rows.k.data = rows.k.row(begin), rows.v.data = rows.v.row(begin);
        cpu::linformer_kernels_for(selected_isa())
            .projections_backward(rows, end - begin, p.rank, padded, p.longest, static_cast<float*>(grads.keys) + begin,
                                  static_cast<float*>(grads.values) + begin, work.get());
      }
    }
  });
}

void backward_on_kernels(const AttentionInputs& in, std::span<const Sequence> sequences,
                         const LinformerOptions& options, const AttentionSaved& saved, const AttentionGradients& grads,
                         const ProjectionGradients& projection_grads, Executor& executor) {
  std::vector<DProjected> parts;
  for_each_head(in, sequences, serial_executor(), [&](const HeadOfCall& head) {
    const Index size =
        shape_of(options, head.sequence).pieces() * options.projections.rank * round_up(in.q.dim, cpu::kDimAlign);
    parts.push_back({head, cpu::zeros(size), cpu::zeros(size)});
  });
  executor.run(std::ssize(parts), [&](Index task) {
    DProjected& part = parts[static_cast<std::size_t>(task)];
    const HeadOfCall& head = part.head;
    const cpu::LinformerJob job = job_of(in, options, head, saved.lse);
    cpu::LinformerScratch scratch(job, true);
    cpu::linformer_kernels_for(selected_isa())
        .backward(job,
                  {head.queries_of(saved.dout), head.queries_of(saved.o), head.queries_of(grads.dq),
                   head.keys_of(grads.dk), head.keys_of(grads.dv), part.keys.get(), part.values.get()},
                  scratch);
  });
  projection_gradients(in, options, parts, projection_grads, executor);
}

void forward(const AttentionInputs& in, std::span<const Sequence> sequences, const LinformerOptions& options,
             const AttentionOutputs& out, Executor& executor) {
  const std::vector<BatchRange> blind = queries_that_see_nothing("linformer_forward", in, sequences, options.causal);
  clear_rows(out.o, blind);
  clear_lse(out.lse, in.q, blind);
  for_each_head(in, sequences, executor, [&](const HeadOfCall& head) {
    if (runs_on_reference(in)) {
      for (Index g = 0; g < head.group; ++g) {
        reference::linformer_forward(reference_head(in, options, head, g), head.query_rows<double>(out.o, g),
                                     at_offset<double>(out.lse, lse_offset(in, head, g)));
      }
      return;
    }
    const cpu::LinformerJob job = job_of(in, options, head, out.lse);
    cpu::LinformerScratch scratch(job, false);
    cpu::linformer_kernels_for(selected_isa()).forward(job, head.queries_of(out.o), scratch);
  });
}

// Clears what no task writes and what all add to, then runs one of the two above.
void backward(const AttentionInputs& in, std::span<const Sequence> sequences, const LinformerOptions& options,
              const AttentionSaved& saved, const AttentionGradients& grads, const ProjectionGradients& projection_grads,
              Executor& executor) {
  const std::vector<BatchRange> unused = keys_of_none("linformer_backward", in, sequences);  // may refuse
  clear_rows(grads.dq, queries_that_see_nothing("linformer_backward", in, sequences, options.causal));
  const auto bytes =
      static_cast<std::size_t>(options.projections.rank * options.projections.longest * size_of(lse_type(in.q.dtype)));
  std::memset(projection_grads.keys, 0, bytes);
  std::memset(projection_grads.values, 0, bytes);
  clear_rows(grads.dk, unused);
  clear_rows(grads.dv, unused);
  if (runs_on_reference(in)) {
    backward_on_reference(in, sequences, options, saved, grads, projection_grads);
  } else {
    backward_on_kernels(in, sequences, options, saved, grads, projection_grads, executor);
  }
}

}  // namespace

void linformer_forward(const AttentionInputs& in, std::span<const Sequence> sequences, const LinformerOptions& options,
                       const AttentionOutputs& out, Executor& executor) {
  constexpr const char* kWho = "linformer_forward";
  check_inputs_without_nodes(kWho, in);
  check_options(kWho, in, sequences, options);
  check_outputs(kWho, in, out);
  for (const Bytes& matrix : projections_of(in, options)) {
    check_apart(kWho, bytes_of("o", as_const(out.o)), {matrix});
    check_apart(kWho, bytes_of_lse(out.lse, in.q), {matrix});
  }
  with_memory_errors(kWho, kHeads, [&] { forward(in, sequences, options, out, executor); });
}

void linformer_forward(const AttentionInputs& in, const LinformerOptions& options, const AttentionOutputs& out,
                       Executor& executor) {
  linformer_forward(in, whole_sequences(in), options, out, executor);
}

void linformer_backward(const AttentionInputs& in, std::span<const Sequence> sequences, const LinformerOptions& options,
                        const AttentionSaved& saved, const AttentionGradients& grads,
                        const ProjectionGradients& projection_grads, Executor& executor) {
  constexpr const char* kWho = "linformer_backward";
  check_inputs_without_nodes(kWho, in);
  check_options(kWho, in, sequences, options);
  check_saved_lse(kWho, in, saved.lse);
  check_gradients(kWho, in, saved, grads);
  check_projection_gradients(kWho, in, options, saved, grads, projection_grads);
  with_memory_errors(kWho, kHeads, [&] { backward(in, sequences, options, saved, grads, projection_grads, executor); });
}

void linformer_backward(const AttentionInputs& in, const LinformerOptions& options, const AttentionSaved& saved,
                        const AttentionGradients& grads, const ProjectionGradients& projection_grads,
                        Executor& executor) {
  linformer_backward(in, whole_sequences(in), options, saved, grads, projection_grads, executor);
}

}  // namespace hsattn
