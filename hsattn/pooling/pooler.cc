#include "hsattn/pooling/pooler.h"

#include <algorithm>
#include <array>
#include <utility>

#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/base/view_checks.h"
#include "hsattn/kernels/pool.h"
#include "hsattn/pooling/driver.h"
#include "hsattn/pooling/reference.h"

namespace hsattn {
namespace {

constexpr std::array<std::pair<Pooler, const char*>, 3> kNames{{{Pooler::kAttention, "attention"},
                                                                {Pooler::kAttentionPaper, "attention_paper"},
                                                                {Pooler::kLearnable, "learnable"}}};

// The shape and type of nodes over `tokens`, for messages and checks.
ConstView nodes_over(const ConstView& tokens, Index block) {
  ConstView nodes = tokens;
  nodes.tokens = pooled_nodes(tokens.tokens, block);
  nodes.dtype = node_type(tokens.dtype);
  return nodes;
}

Bytes bytes_of_parameters(const char* name, const void* data, const PoolerInputs& in) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const Index count = pooler_rows(in.pooler, in.k.dim) * in.k.dim;
  return {name, begin, begin + static_cast<std::uintptr_t>(count * size_of(node_type(in.k.dtype)))};
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

Index pooled_nodes(Index keys, Index block) { return pyramid_nodes(ceil_div(keys, block)); }

void pool_forward(const PoolerInputs& in, const Nodes& out, Executor& executor) {
  constexpr const char* kWho = "pool_forward";
  check_inputs(kWho, in);
  const ConstView right = nodes_over(in.k, in.block);
  const Bytes k = bytes_of("k", in.k), v = bytes_of("v", in.v);
  const Bytes parameters = bytes_of_parameters("parameters", in.parameters, in);
  check_written(kWho, "pooled k", out.k, right, "the pyramid of k", {k, v, parameters});
  check_written(kWho, "pooled v", out.v, right, "the pyramid of k",
                {k, v, parameters, bytes_of("pooled k", as_const(out.k))});
  const auto forward = in.k.dtype == DType::kFloat64 ? reference::pool_forward : pooling::forward;
  forward(in, out, executor);
}

void pool_backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads, Executor& executor) {
  constexpr const char* kWho = "pool_backward";
  check_inputs(kWho, in);
  const ConstView right = nodes_over(in.k, in.block);
  check_same(kWho, "the gradient of pooled k", dnodes.k, "the pyramid of k", right);
  check_same(kWho, "the gradient of pooled v", dnodes.v, "the pyramid of k", right);
  check(grads.dparameters != nullptr, kWho, ": dparameters has no memory");
  const Bytes k = bytes_of("k", in.k), v = bytes_of("v", in.v);
  const Bytes parameters = bytes_of_parameters("parameters", in.parameters, in);
  const Bytes pooled_k = bytes_of("the gradient of pooled k", dnodes.k);
  const Bytes pooled_v = bytes_of("the gradient of pooled v", dnodes.v);
  const Bytes dk = bytes_of("dk", as_const(grads.dk)), dv = bytes_of("dv", as_const(grads.dv));
  check_written(kWho, "dk", grads.dk, in.k, "k", {k, v, parameters, pooled_k, pooled_v});
  check_written(kWho, "dv", grads.dv, in.v, "v", {k, v, parameters, pooled_k, pooled_v, dk});
  check_apart(kWho, bytes_of_parameters("dparameters", grads.dparameters, in),
              {k, v, parameters, pooled_k, pooled_v, dk, dv});
  const auto backward = in.k.dtype == DType::kFloat64 ? reference::pool_backward : pooling::backward;
  backward(in, dnodes, grads, executor);
}

}  // namespace hsattn
