// Several sequences in shared tensors: each is an ordinary call on views of its own tokens.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <type_traits>

#include "hsattn/attention/checks.h"
#include "hsattn/attention/dispatch.h"
#include "hsattn/base/buffer.h"
#include "hsattn/base/error.h"
#include "hsattn/base/math.h"

namespace hsattn {
namespace {

template <class Pointer>
BasicView<Pointer> part_of(const BasicView<Pointer>& whole, Index batch, Range tokens) {
  using Byte = std::conditional_t<std::is_same_v<Pointer, void*>, std::byte, const std::byte>;
  BasicView<Pointer> part = whole;
  part.batch = 1;
  part.tokens = tokens.size();
  if (part.elements() == 0) return part;
  const Index first = batch * whole.batch_stride + tokens.begin * whole.token_stride;
  part.data = static_cast<Byte*>(whole.data) + first * size_of(whole.dtype);
  return part;
}

AttentionInputs part_of(const AttentionInputs& in, const Sequence& s) {
  return {part_of(in.q, s.batch, s.queries), part_of(in.k, s.batch, s.keys), part_of(in.v, s.batch, s.keys), in.scale};
}

// lse of one sequence, gathered as an ordinary call has it: [heads, queries].
class LsePart {
 public:
  LsePart(const ConstView& q, const Sequence& s)
      : heads_(q.heads),
        bytes_(s.queries.size() * size_of(lse_type(q.dtype))),
        stride_(q.tokens * size_of(lse_type(q.dtype))) {
    first_ = s.batch * q.heads * stride_ + s.queries.begin * size_of(lse_type(q.dtype));
    part_ = allocate_buffer<std::byte>(heads_ * bytes_, "attention: lse of a sequence");
  }

  void* data() const { return part_.get(); }
  void read(const void* whole) const {
    for (Index h = 0; h < heads_; ++h) {
      std::memcpy(part_.get() + h * bytes_, static_cast<const std::byte*>(whole) + first_ + h * stride_, bytes_);
    }
  }
  void write(void* whole) const {
    for (Index h = 0; h < heads_; ++h) {
      std::memcpy(static_cast<std::byte*>(whole) + first_ + h * stride_, part_.get() + h * bytes_, bytes_);
    }
  }

 private:
  Index heads_, bytes_, stride_, first_;  // of a head in bytes: in the part, in the whole; where the part begins there
  Buffer<std::byte> part_;
};

void clear_rows(const View& view, std::span<const BatchRange> rows) {
  const auto bytes = static_cast<std::size_t>(view.dim * size_of(view.dtype));
  for (const BatchRange& run : rows) {
    const View part = part_of(view, run.batch, run.tokens);
    for (Index h = 0; h < part.heads; ++h) {
      for (Index t = 0; t < part.tokens; ++t) {
        const Index row = h * part.head_stride + t * part.token_stride;
        std::memset(static_cast<std::byte*>(part.data) + row * size_of(view.dtype), 0, bytes);
      }
    }
  }
}

template <class T>
void clear_lse(T* lse, const ConstView& q, std::span<const BatchRange> rows) {
  for (const BatchRange& run : rows) {
    for (Index h = 0; h < q.heads; ++h) {
      T* head = lse + (run.batch * q.heads + h) * q.tokens;
      std::fill(head + run.tokens.begin, head + run.tokens.end, -std::numeric_limits<T>::infinity());
    }
  }
}

void clear_outputs(const AttentionOutputs& out, const ConstView& q, std::span<const BatchRange> rows) {
  clear_rows(out.o, rows);
  if (out.lse == nullptr) return;
  if (lse_type(q.dtype) == DType::kFloat64) return clear_lse(static_cast<double*>(out.lse), q, rows);
  clear_lse(static_cast<float*>(out.lse), q, rows);
}

using Body = std::function<void(std::size_t sequence, Executor&)>;

// True if a sequence should have all threads for itself: where it is more than a thread's share of the work, or a good
// part of it and there is work inside for every thread. The others go side by side. Neither shows in the bits.
std::vector<bool> needs_all_threads(std::span<const Sequence> sequences, const std::vector<double>& costs, Index heads,
                                    Index threads) {
  constexpr Index kTask = 256;  // queries of a head that are worth a task, as in the kernels
  const double share = std::accumulate(costs.begin(), costs.end(), 0.0) / static_cast<double>(threads);
  std::vector<bool> needs(sequences.size());
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Index tasks = heads * ceil_div(sequences[i].queries.size(), kTask);
    needs[i] = threads == 1 || costs[i] > share || (costs[i] > share / 4 && tasks >= threads);
  }
  return needs;
}

// Calls body for each sequence, with the executor for its inside: some one after another, the others side by side, the
// longest first.
void for_each_sequence(std::span<const Sequence> sequences, Index heads, Executor& executor, const Body& body) {
  std::vector<double> costs;
  for (const Sequence& s : sequences) {
    costs.push_back(static_cast<double>(s.queries.size()) * static_cast<double>(s.keys.size()));
  }
  const std::vector<bool> needs = needs_all_threads(sequences, costs, heads, executor.threads());
  std::vector<std::size_t> side_by_side;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (needs[i]) {
      body(i, executor);
    } else {
      side_by_side.push_back(i);
    }
  }
  std::stable_sort(side_by_side.begin(), side_by_side.end(),
                   [&](std::size_t a, std::size_t b) { return costs[a] > costs[b]; });
  executor.run(std::ssize(side_by_side),
               [&](Index task) { body(side_by_side[static_cast<std::size_t>(task)], serial_executor()); });
}

// Where the lists of each sequence begin in `blocks`; null if that is null.
std::vector<std::int32_t*> lists_of(std::span<const PlanShape> shapes, std::int32_t* blocks) {
  std::vector<std::int32_t*> lists;
  for (const PlanShape& shape : shapes) {
    lists.push_back(blocks);
    if (blocks != nullptr) blocks += shape.list_elements();
  }
  return lists;
}

void check_inputs_and_sequences(const char* who, const AttentionInputs& in, std::span<const Sequence> sequences) {
  check_inputs(who, in);
  if (in.pooled) {
    throw Unsupported(concat(who,
                             ": pooled keys and values were given with several sequences, which is not supported; ",
                             "pool and attend each sequence by itself"));
  }
  check_sequences(who, sequences, in.q.batch, in.q.tokens, in.k.tokens);
}

void check_plans(const char* who, const AttentionInputs& in, std::span<const Sequence> sequences,
                 std::span<const PlanView> plans) {
  check(plans.size() == sequences.size(), who, ": there are ", plans.size(), " plans for ", sequences.size(),
        " sequences; each needs one");
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    try {
      check_plan_fits(who, part_of(in, sequences[i]), plans[i]);
    } catch (const InvalidArgument& error) {
      throw InvalidArgument(concat(error.what(), " (sequence ", i, ")"));
    }
  }
}

std::vector<BatchRange> queries_of_none(const char* who, std::span<const Sequence> sequences, const ConstView& q) {
  return tokens_of_none(who, "queries", sequences, &Sequence::queries, q.batch, q.tokens);
}

using ForwardOf = std::function<void(std::size_t, const AttentionInputs&, const AttentionOutputs&, Executor&)>;

// Rows of no sequence are cleared, then forward(i, ...) gets the views of sequence i.
void run_forward(const AttentionInputs& in, std::span<const Sequence> sequences, const AttentionOutputs& out,
                 Executor& executor, const ForwardOf& forward) {
  check_outputs("attention_forward", in, out);
  clear_outputs(out, in.q, queries_of_none("attention_forward", sequences, in.q));
  for_each_sequence(sequences, in.k.heads, executor, [&](std::size_t i, Executor& inner) {
    const Sequence& s = sequences[i];
    const View o = part_of(out.o, s.batch, s.queries);
    if (out.lse == nullptr) return forward(i, part_of(in, s), {o}, inner);
    const LsePart lse(in.q, s);
    forward(i, part_of(in, s), {o, lse.data()}, inner);
    lse.write(out.lse);
  });
}

}  // namespace

void attention_forward(const AttentionInputs& in, std::span<const Sequence> sequences, std::span<const PlanView> plans,
                       const AttentionOutputs& out, Executor& executor) {
  check_inputs_and_sequences("attention_forward", in, sequences);
  check_plans("attention_forward", in, sequences, plans);
  run_forward(in, sequences, out, executor,
              [&](std::size_t i, const AttentionInputs& part, const AttentionOutputs& out_part, Executor& inner) {
                dispatch::forward(part, plans[i], out_part, inner);
              });
}

void attention_forward(const AttentionInputs& in, std::span<const Sequence> sequences, const PlanOptions& options,
                       const AttentionOutputs& out, std::int32_t* keep, Executor& executor) {
  check_inputs_and_sequences("attention_forward", in, sequences);
  const std::vector<PlanShape> shapes = plan_shapes(options, in.k.heads, sequences);
  const std::vector<std::int32_t*> lists = lists_of(shapes, keep);
  run_forward(in, sequences, out, executor,
              [&](std::size_t i, const AttentionInputs& part, const AttentionOutputs& out_part, Executor& inner) {
                dispatch::forward(part, shapes[i], options, out_part, lists[i], inner);
              });
}

void attention_backward(const AttentionInputs& in, std::span<const Sequence> sequences, std::span<const PlanView> plans,
                        const AttentionSaved& saved, const AttentionGradients& grads, Executor& executor) {
  constexpr const char* kWho = "attention_backward";
  check_inputs_and_sequences(kWho, in, sequences);
  check_plans(kWho, in, sequences, plans);
  check_saved_lse(kWho, in, saved.lse);
  check_gradients(kWho, in, saved, grads);
  const std::vector<BatchRange> queries = queries_of_none(kWho, sequences, in.q);
  const std::vector<BatchRange> keys =
      tokens_of_none(kWho, "keys", sequences, &Sequence::keys, in.k.batch, in.k.tokens);
  clear_rows(grads.dq, queries);
  clear_rows(grads.dk, keys);
  clear_rows(grads.dv, keys);
  for_each_sequence(sequences, in.k.heads, executor, [&](std::size_t i, Executor& inner) {
    const Sequence& s = sequences[i];
    const LsePart lse(in.q, s);
    lse.read(saved.lse);
    const AttentionSaved saved_part{part_of(saved.dout, s.batch, s.queries), part_of(saved.o, s.batch, s.queries),
                                    lse.data()};
    const AttentionGradients grads_part{part_of(grads.dq, s.batch, s.queries), part_of(grads.dk, s.batch, s.keys),
                                        part_of(grads.dv, s.batch, s.keys)};
    dispatch::backward(part_of(in, s), plans[i], saved_part, grads_part, inner);
  });
}

void make_plans_into(const ConstView& q, const ConstView& k, std::span<const Sequence> sequences,
                     const PlanOptions& options, std::optional<double> scale, std::int32_t* blocks,
                     Executor& executor) {
  constexpr const char* kWho = "make_plans";
  check_queries_and_keys(kWho, q, k, scale);
  check_sequences(kWho, sequences, q.batch, q.tokens, k.tokens);
  (void)queries_of_none(kWho, sequences, q);  // no query may be in two
  const std::vector<PlanShape> shapes = plan_shapes(options, k.heads, sequences);
  check_memory_for_lists(kWho, blocks, list_elements(shapes));
  const std::vector<std::int32_t*> lists = lists_of(shapes, blocks);
  for_each_sequence(sequences, k.heads, executor, [&](std::size_t i, Executor& inner) {
    const Sequence& s = sequences[i];
    dispatch::select(part_of(q, s.batch, s.queries), part_of(k, s.batch, s.keys), shapes[i], options,
                     scale_or_default(scale, q.dim), lists[i], inner);
  });
}

}  // namespace hsattn
