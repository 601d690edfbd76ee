// Several sequences in shared tensors: each is an ordinary call on views of its own tokens.
#include <cstddef>
#include <cstring>
#include <functional>

#include "hsattn/attention/checks.h"
#include "hsattn/attention/dispatch.h"
#include "hsattn/attention/parts.h"
#include "hsattn/base/buffer.h"
#include "hsattn/base/error.h"
#include "hsattn/base/view_checks.h"
#include "hsattn/kernels/pool.h"

namespace hsattn {
namespace {

// The sequences of a call, and where the nodes of each lie among those that its caller pooled.
class Parts {
 public:
  Parts(const AttentionInputs& in, std::span<const Sequence> sequences) : in_(in), sequences_(sequences) {}

  // Nodes are of blocks of `block`.
  void place_nodes(const char* who, Index block) {
    if (!in_.pooled) return;
    nodes_ = nodes_of_sequences(who, "pooled k", sequences_, block, in_.k.batch, in_.pooled->k.tokens);
    for (const auto& [name, nodes] : {std::pair{"pooled k", in_.pooled->k}, {"pooled v", in_.pooled->v}}) {
      ConstView right = in_.k;
      right.tokens = in_.pooled->k.tokens;
      right.dtype = node_type(in_.k.dtype);
      check_same(who, name, nodes, "the nodes of the sequences of k", right);
    }
  }

  AttentionInputs inputs(std::size_t i) const {
    const Sequence& s = sequences_[i];
    AttentionInputs part{part_of(in_.q, s.batch, s.queries), part_of(in_.k, s.batch, s.keys),
                         part_of(in_.v, s.batch, s.keys), in_.scale};
    if (in_.pooled) part.pooled = nodes(*in_.pooled, i);
    return part;
  }
  template <class AnyView>
  BasicNodes<AnyView> nodes(const BasicNodes<AnyView>& whole, std::size_t i) const {
    return {part_of(whole.k, sequences_[i].batch, nodes_.ranges[i]),
            part_of(whole.v, sequences_[i].batch, nodes_.ranges[i])};
  }
  void clear_unused(const Nodes& nodes) const {
    clear_rows(nodes.k, nodes_.none);
    clear_rows(nodes.v, nodes_.none);
  }

 private:
  const AttentionInputs& in_;
  std::span<const Sequence> sequences_;
  SequenceNodes nodes_;
};

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

void clear_outputs(const AttentionOutputs& out, const ConstView& q, std::span<const BatchRange> rows) {
  clear_rows(out.o, rows);
  clear_lse(out.lse, q, rows);
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
  check_sequences(who, sequences, in.q.batch, in.q.tokens, in.k.tokens);
}

// Checks that each sequence has its plan, and places the nodes that the plans are for.
void check_plans(const char* who, Parts& parts, std::size_t sequences, std::span<const PlanView> plans) {
  check(plans.size() == sequences, who, ": there are ", plans.size(), " plans for ", sequences,
        " sequences; each needs one");
  if (plans.empty()) return;
  for (const PlanView& plan : plans) {
    check(plan.shape.node == plans[0].shape.node && plan.shape.far_field == plans[0].shape.far_field, who,
          ": plans differ in node or far field; all must be made with the same options");
  }
  parts.place_nodes(who, plans[0].shape.node);
  for (std::size_t i = 0; i < sequences; ++i) {
    try {
      check_plan_fits(who, parts.inputs(i), plans[i]);
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
void run_forward(const AttentionInputs& in, std::span<const Sequence> sequences, const Parts& parts,
                 const AttentionOutputs& out, Executor& executor, const ForwardOf& forward) {
  check_outputs("attention_forward", in, out);
  clear_outputs(out, in.q, queries_of_none("attention_forward", sequences, in.q));
  for_each_sequence(sequences, in.k.heads, executor, [&](std::size_t i, Executor& inner) {
    const Sequence& s = sequences[i];
    const View o = part_of(out.o, s.batch, s.queries);
    if (out.lse == nullptr) return forward(i, parts.inputs(i), {o}, inner);
    const LsePart lse(in.q, s);
    forward(i, parts.inputs(i), {o, lse.data()}, inner);
    lse.write(out.lse);
  });
}

}  // namespace

void attention_forward(const AttentionInputs& in, std::span<const Sequence> sequences, std::span<const PlanView> plans,
                       const AttentionOutputs& out, Executor& executor) {
  check_inputs_and_sequences("attention_forward", in, sequences);
  Parts parts(in, sequences);
  check_plans("attention_forward", parts, sequences.size(), plans);
  run_forward(in, sequences, parts, out, executor,
              [&](std::size_t i, const AttentionInputs& part, const AttentionOutputs& out_part, Executor& inner) {
                dispatch::forward(part, plans[i], out_part, inner);
              });
}

void attention_forward(const AttentionInputs& in, std::span<const Sequence> sequences, const PlanOptions& options,
                       const AttentionOutputs& out, std::int32_t* keep, Executor& executor) {
  check_inputs_and_sequences("attention_forward", in, sequences);
  const std::vector<PlanShape> shapes = plan_shapes(options, in.q.dtype, in.k.heads, sequences);
  const std::vector<std::int32_t*> lists = lists_of(shapes, keep);
  Parts parts(in, sequences);
  if (!shapes.empty()) parts.place_nodes("attention_forward", shapes[0].node);
  run_forward(in, sequences, parts, out, executor,
              [&](std::size_t i, const AttentionInputs& part, const AttentionOutputs& out_part, Executor& inner) {
                dispatch::forward(part, shapes[i], options, out_part, lists[i], inner);
              });
}

void attention_backward(const AttentionInputs& in, std::span<const Sequence> sequences, std::span<const PlanView> plans,
                        const AttentionSaved& saved, const AttentionGradients& grads, Executor& executor) {
  constexpr const char* kWho = "attention_backward";
  check_inputs_and_sequences(kWho, in, sequences);
  Parts parts(in, sequences);
  check_plans(kWho, parts, sequences.size(), plans);
  check_saved_lse(kWho, in, saved.lse);
  check_gradients(kWho, in, saved, grads);
  check_gradients_of_pooled(kWho, in, plans.empty() ? grads.dpooled.has_value() : plans[0].shape.far_field, saved,
                            grads);
  const std::vector<BatchRange> queries = queries_of_none(kWho, sequences, in.q);
  const std::vector<BatchRange> keys =
      tokens_of_none(kWho, "keys", sequences, &Sequence::keys, in.k.batch, in.k.tokens);
  clear_rows(grads.dq, queries);
  clear_rows(grads.dk, keys);
  clear_rows(grads.dv, keys);
  if (grads.dpooled) parts.clear_unused(*grads.dpooled);
  for_each_sequence(sequences, in.k.heads, executor, [&](std::size_t i, Executor& inner) {
    const Sequence& s = sequences[i];
    const LsePart lse(in.q, s);
    lse.read(saved.lse);
    const AttentionSaved saved_part{part_of(saved.dout, s.batch, s.queries), part_of(saved.o, s.batch, s.queries),
                                    lse.data()};
    AttentionGradients grads_part{part_of(grads.dq, s.batch, s.queries), part_of(grads.dk, s.batch, s.keys),
                                  part_of(grads.dv, s.batch, s.keys)};
    if (grads.dpooled) grads_part.dpooled = parts.nodes(*grads.dpooled, i);
    dispatch::backward(parts.inputs(i), plans[i], saved_part, grads_part, inner);
  });
}

void make_plans_into(const ConstView& q, const ConstView& k, std::span<const Sequence> sequences,
                     const PlanOptions& options, std::optional<double> scale, std::int32_t* blocks, Executor& executor,
                     const std::optional<ConstView>& pooled_keys) {
  constexpr const char* kWho = "make_plans";
  check_queries_and_keys(kWho, q, k, scale);
  check_sequences(kWho, sequences, q.batch, q.tokens, k.tokens);
  (void)queries_of_none(kWho, sequences, q);  // no query may be in two
  const std::vector<PlanShape> shapes = plan_shapes(options, q.dtype, k.heads, sequences);
  check_memory_for_lists(kWho, blocks, list_elements(shapes));
  const std::vector<std::int32_t*> lists = lists_of(shapes, blocks);
  AttentionInputs in{q, k, k, scale};
  if (pooled_keys) in.pooled = ConstNodes{*pooled_keys, *pooled_keys};
  Parts parts(in, sequences);
  if (!shapes.empty()) parts.place_nodes(kWho, shapes[0].node);
  for_each_sequence(sequences, k.heads, executor, [&](std::size_t i, Executor& inner) {
    const AttentionInputs part = parts.inputs(i);
    const std::optional<ConstView> nodes = part.pooled ? std::optional(part.pooled->k) : std::nullopt;
    dispatch::select(part.q, part.k, shapes[i], options, scale_or_default(scale, q.dim), lists[i], inner, nodes);
  });
}

}  // namespace hsattn
