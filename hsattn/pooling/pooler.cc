#include "hsattn/pooling/pooler.h"

#include <algorithm>
#include <array>
#include <utility>

#include "hsattn/attention/parts.h"
#include "hsattn/base/buffer.h"
#include "hsattn/base/math.h"
#include "hsattn/base/view_checks.h"
#include "hsattn/kernels/pool.h"
#include "hsattn/pooling/driver.h"
#include "hsattn/pooling/reference.h"

namespace hsattn {
namespace {

constexpr const char *kForward = "pool_forward", *kBackward = "pool_backward";
constexpr const char* kWhat = "parts";  // of with_memory_errors()

constexpr std::array<std::pair<Pooler, const char*>, 3> kNames{{{Pooler::kAttention, "attention"},
                                                                {Pooler::kAttentionPaper, "attention_paper"},
                                                                {Pooler::kLearnable, "learnable"}}};

constexpr Index kMostCount = Index{1} << 40;

void check_counts(const char* who, Index keys, Index block) {
  check(block >= 1 && block <= 64, who, ": block is ", block, "; it must be from 1 to 64");
  check(keys >= 0 && keys <= kMostCount, who, ": keys is ", keys, "; it must be from 0 to 2^40");
}

// The shape and type of so many nodes over `tokens`, for messages and checks.
ConstView nodes_over(const ConstView& tokens, Index count) {
  ConstView nodes = tokens;
  nodes.tokens = count;
  nodes.dtype = node_type(tokens.dtype);
  return nodes;
}

Bytes bytes_of_parameters(const char* name, const void* data, const PoolerInputs& in) {
  return bytes_of(name, data, pooler_rows(in.pooler, in.k.dim) * in.k.dim, node_type(in.k.dtype));
}

void check_inputs(const char* who, const PoolerInputs& in) {
  check(in.block >= 1 && in.block <= 64 && (in.block & (in.block - 1)) == 0, who, ": block is ", in.block,
        "; it must be a power of two from 1 to 64");
  check_view(who, "k", in.k);
  check_same(who, "v", in.v, "k", in.k);
  check(in.k.dim >= 8 && in.k.dim <= 256, who, ": k has head dimension ", in.k.dim, "; it must be from 8 to 256");
  check(in.parameters != nullptr, who, ": parameters has no memory; there are ", pooler_rows(in.pooler, in.k.dim),
        " rows of ", in.k.dim);
}

void check_written(const char* who, const char* name, const View& written, const ConstView& right, const char* like,
                   std::initializer_list<Bytes> others) {
  check_same(who, name, as_const(written), like, right);
  check_not_folded(who, name, as_const(written));
  check_apart(who, bytes_of(name, as_const(written)), others);
}

void check_forward(const PoolerInputs& in, const Nodes& out, Index nodes) {
  const ConstView right = nodes_over(in.k, nodes);
  const Bytes k = bytes_of("k", in.k), v = bytes_of("v", in.v);
  const Bytes parameters = bytes_of_parameters("parameters", in.parameters, in);
  check_written(kForward, "pooled k", out.k, right, "the pyramid of k", {k, v, parameters});
  check_written(kForward, "pooled v", out.v, right, "the pyramid of k",
                {k, v, parameters, bytes_of("pooled k", as_const(out.k))});
}

void check_backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads, Index nodes) {
  const ConstView right = nodes_over(in.k, nodes);
  check_same(kBackward, "the gradient of pooled k", dnodes.k, "the pyramid of k", right);
  check_same(kBackward, "the gradient of pooled v", dnodes.v, "the pyramid of k", right);
  check(grads.dparameters != nullptr, kBackward, ": dparameters has no memory");
  const Bytes k = bytes_of("k", in.k), v = bytes_of("v", in.v);
  const Bytes parameters = bytes_of_parameters("parameters", in.parameters, in);
  const Bytes pooled_k = bytes_of("the gradient of pooled k", dnodes.k);
  const Bytes pooled_v = bytes_of("the gradient of pooled v", dnodes.v);
  const Bytes dk = bytes_of("dk", as_const(grads.dk)), dv = bytes_of("dv", as_const(grads.dv));
  check_written(kBackward, "dk", grads.dk, in.k, "k", {k, v, parameters, pooled_k, pooled_v});
  check_written(kBackward, "dv", grads.dv, in.v, "v", {k, v, parameters, pooled_k, pooled_v, dk});
  check_apart(kBackward, bytes_of_parameters("dparameters", grads.dparameters, in),
              {k, v, parameters, pooled_k, pooled_v, dk, dv});
}

void forward(const PoolerInputs& in, const Nodes& out, Executor& executor) {
  const auto forward = in.k.dtype == DType::kFloat64 ? reference::pool_forward : pooling::forward;
  forward(in, out, executor);
}

void backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads, Executor& executor) {
  const auto backward = in.k.dtype == DType::kFloat64 ? reference::pool_backward : pooling::backward;
  backward(in, dnodes, grads, executor);
}

// The sequences of a call, which has room for `nodes` nodes in each batch element: each is a call on its own views.
class Parts {
 public:
  Parts(const char* who, const PoolerInputs& in, std::span<const Sequence> sequences, Index nodes)
      : in_(in), sequences_(sequences.begin(), sequences.end()) {
    check_keys_of_sequences(who, sequences, in.k.batch, in.k.tokens);
    unused_keys_ = tokens_of_none(who, "keys", sequences, &Sequence::keys, in.k.batch, in.k.tokens);
    nodes_ = nodes_of_sequences(who, "pooled k", sequences, in.block, in.k.batch, nodes);
    for (Sequence& s : sequences_) s.queries = s.keys;  // what the work is
  }

  template <class Body>
  void for_each(Executor& executor, const Body& body) const {
    for_each_sequence(sequences_, in_.k.heads, executor, body);
  }
  PoolerInputs inputs(std::size_t i) const {
    PoolerInputs part = in_;
    part.k = keys(in_.k, i);
    part.v = keys(in_.v, i);
    return part;
  }
  PoolerGradients gradients(const PoolerGradients& whole, void* dparameters, std::size_t i) const {
    return {keys(whole.dk, i), keys(whole.dv, i), dparameters};
  }
  template <class AnyView>
  BasicNodes<AnyView> nodes(const BasicNodes<AnyView>& whole, std::size_t i) const {
    const Index batch = sequences_[i].batch;
    return {part_of(whole.k, batch, nodes_.ranges[i]), part_of(whole.v, batch, nodes_.ranges[i])};
  }
  void clear_unused(const Nodes& nodes) const {
    for (const View& view : {nodes.k, nodes.v}) clear_rows(view, nodes_.none);
  }
  void clear_unused(const PoolerGradients& grads) const {
    for (const View& view : {grads.dk, grads.dv}) clear_rows(view, unused_keys_);
  }

 private:
  template <class AnyView>
  AnyView keys(const AnyView& view, std::size_t i) const {
    return part_of(view, sequences_[i].batch, sequences_[i].keys);
  }

  const PoolerInputs& in_;
  std::vector<Sequence> sequences_;
  std::vector<BatchRange> unused_keys_;
  SequenceNodes nodes_;
};

template <class T>
void write_initial(Pooler pooler, Index dim, T* to) {
  std::fill_n(to, pooler_rows(pooler, dim) * dim, T{0});
  if (pooler != Pooler::kAttentionPaper) return;
  for (Index matrix = 0; matrix < 4; ++matrix) {
    for (Index c = 0; c < dim; ++c) to[(matrix * dim + c) * dim + c] = 1;
  }
  std::fill_n(to + 4 * dim * dim, dim, T{1});
}

}  // namespace

const char* name_of(Pooler pooler) {
  for (const auto& [value, name] : kNames) {
    if (value == pooler) return name;
  }
  return "unknown";
}

Pooler pooler_from_name(const std::string& name) {
  for (const auto& [value, known] : kNames) {
    if (name == known) return value;
  }
  throw InvalidArgument(concat("pooler is '", name, "'; it must be one of attention, attention_paper, learnable"));
}

Index pooler_rows(Pooler pooler, Index dim) {
  if (pooler == Pooler::kAttention) return 1;
  return pooler == Pooler::kLearnable ? 4 : 4 * dim + 2;
}

void write_initial_parameters(Pooler pooler, Index dim, DType type, void* parameters) {
  check(type == node_type(type), "write_initial_parameters: type is ", name_of(type),
        "; it must be float32 or float64");
  if (type == DType::kFloat64) return write_initial(pooler, dim, static_cast<double*>(parameters));
  write_initial(pooler, dim, static_cast<float*>(parameters));
}

Index pooled_nodes(Index keys, Index block) {
  check_counts("pooled_nodes", keys, block);
  return pyramid_nodes(ceil_div(keys, block));
}

Index most_pooled_nodes(Index keys, Index block, Index sequences) {
  check_counts("most_pooled_nodes", keys, block);
  check(sequences >= 0 && sequences <= kMostCount, "most_pooled_nodes: sequences is ", sequences,
        "; it must be from 0 to 2^40");
  // n blocks in L levels have at most 2 n + L - 2 nodes: each level half of the one below, rounded up.
  const Index blocks = (keys + sequences * (block - 1)) / block;
  return 2 * blocks + sequences * std::max(0, pyramid_levels(ceil_div(keys, block)) - 2);
}

void pool_forward(const PoolerInputs& in, const Nodes& out, Executor& executor) {
  check_inputs(kForward, in);
  check_forward(in, out, pooled_nodes(in.k.tokens, in.block));
  with_memory_errors(kForward, kWhat, [&] { forward(in, out, executor); });
}

void pool_backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads, Executor& executor) {
  check_inputs(kBackward, in);
  check_backward(in, dnodes, grads, pooled_nodes(in.k.tokens, in.block));
  with_memory_errors(kBackward, kWhat, [&] { backward(in, dnodes, grads, executor); });
}

void pool_forward(const PoolerInputs& in, std::span<const Sequence> sequences, const Nodes& out, Executor& executor) {
  check_inputs(kForward, in);
  check_forward(in, out, out.k.tokens);
  with_memory_errors(kForward, kWhat, [&] {
    const Parts parts(kForward, in, sequences, out.k.tokens);
    parts.clear_unused(out);
    parts.for_each(executor,
                   [&](std::size_t i, Executor& inner) { forward(parts.inputs(i), parts.nodes(out, i), inner); });
  });
}

void pool_backward(const PoolerInputs& in, std::span<const Sequence> sequences, const ConstNodes& dnodes,
                   const PoolerGradients& grads, Executor& executor) {
  check_inputs(kBackward, in);
  check_backward(in, dnodes, grads, dnodes.k.tokens);
  const auto run = [&](auto number) {
    using Number = decltype(number);
    const Parts parts(kBackward, in, sequences, dnodes.k.tokens);
    parts.clear_unused(grads);
    const Index count = pooler_rows(in.pooler, in.k.dim) * in.k.dim;
    auto sums = allocate_vector<Number>(std::ssize(sequences) * count, "pool_backward: gradients of sequences");
    const auto sums_of = [&](std::size_t i) { return sums.data() + static_cast<Index>(i) * count; };
    parts.for_each(executor, [&](std::size_t i, Executor& inner) {
      backward(parts.inputs(i), parts.nodes(dnodes, i), parts.gradients(grads, sums_of(i), i), inner);
    });
    for (Index p = 0; p < count; ++p) {
      double sum = 0;
      for (std::size_t i = 0; i < sequences.size(); ++i) sum += static_cast<double>(sums_of(i)[p]);
      static_cast<Number*>(grads.dparameters)[p] = static_cast<Number>(sum);
    }
  };
  with_memory_errors(kBackward, kWhat,
                     [&] { node_type(in.k.dtype) == DType::kFloat64 ? run(double{}) : run(float{}); });
}

}  // namespace hsattn
