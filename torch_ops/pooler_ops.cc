#include "hsattn/pooling/pooler.h"
#include "torch_ops/executor.h"
#include "torch_ops/ops.h"
#include "torch_ops/sequences.h"

namespace hsattn::torch_ops {
namespace {

// Parameters as the library reads them; their shape is checked here because a pointer has none.
Tensor readable_parameters(const char* who, const Tensor& parameters, Pooler pooler, const Tensor& k) {
  check_on_cpu(who, "parameters", parameters);
  const Index rows = pooler_rows(pooler, k.size(3));
  const bool fits = parameters.dim() == 2 && parameters.size(0) == rows && parameters.size(1) == k.size(3);
  check(fits && parameters.scalar_type() == lse_type_of(k), who, ": parameters has shape ", shape_of(parameters),
        " and type ", torch::headeronly::toString(parameters.scalar_type()), "; for '", name_of(pooler), "' and k ",
        shape_of(k), " it must be [", rows, ", ", k.size(3), "] and ", torch::headeronly::toString(lse_type_of(k)));
  return torch::stable::contiguous(parameters);
}

struct Call {
  Pooler pooler;
  Tensor k, v, parameters;
  PoolerInputs inputs;

  Call(const char* who, const Tensor& k_given, const Tensor& v_given, const Tensor& parameters_given,
       const std::string& pooling, Index block)
      : pooler(pooler_from_name(pooling)),
        k(readable(who, "k", k_given)),
        v(readable(who, "v", v_given)),
        parameters(readable_parameters(who, parameters_given, pooler, k)),
        inputs{pooler, block, const_view(k), const_view(v), parameters.const_data_ptr()} {}
};

}  // namespace

std::tuple<Tensor, Tensor> pool_forward(const Tensor& k, const Tensor& v, const Tensor& parameters,
                                        const std::string& pooling, Index block,
                                        const std::optional<Tensor>& sequences) {
  const Call call("pool_forward", k, v, parameters, pooling, block);
  check(block >= 1, "pool_forward: block is ", block, "; it must be a power of two from 1 to 64");
  const Index nodes = sequences ? most_pooled_nodes(k.size(2), block, count_of_sequences("pool_forward", *sequences))
                                : pooled_nodes(k.size(2), block);
  const std::vector<Index> shape = {k.size(0), k.size(1), nodes, k.size(3)};
  const Tensor pooled_k = new_tensor(call.k, shape, lse_type_of(k)),
               pooled_v = new_tensor(call.k, shape, lse_type_of(k));
  const Nodes out{view(pooled_k), view(pooled_v)};
  TorchExecutor executor;
  if (sequences) {
    hsattn::pool_forward(call.inputs, rows_of_sequences(*sequences), out, executor);
  } else {
    hsattn::pool_forward(call.inputs, out, executor);
  }
  return {pooled_k, pooled_v};
}

std::tuple<Tensor, Tensor, Tensor> pool_backward(const Tensor& dpooled_k, const Tensor& dpooled_v, const Tensor& k,
                                                 const Tensor& v, const Tensor& parameters, const std::string& pooling,
                                                 Index block, const std::optional<Tensor>& sequences) {
  constexpr const char* kWho = "pool_backward";
  const Call call(kWho, k, v, parameters, pooling, block);
  const Tensor dnodes_k = readable(kWho, "the gradient of pooled k", dpooled_k);
  const Tensor dnodes_v = readable(kWho, "the gradient of pooled v", dpooled_v);
  const auto new_gradient = sequences ? new_token_major : new_like;
  const Tensor dk = new_gradient(call.k), dv = new_gradient(call.v);
  const Tensor dparameters = new_tensor(call.parameters, {call.parameters.size(0), call.parameters.size(1)});
  const ConstNodes dnodes{const_view(dnodes_k), const_view(dnodes_v)};
  const PoolerGradients grads{view(dk), view(dv), dparameters.mutable_data_ptr()};
  TorchExecutor executor;
  if (sequences) {
    count_of_sequences(kWho, *sequences);
    hsattn::pool_backward(call.inputs, rows_of_sequences(*sequences), dnodes, grads, executor);
  } else {
    hsattn::pool_backward(call.inputs, dnodes, grads, executor);
  }
  return {dk, dv, dparameters};
}

Tensor initial_pooler(const Tensor& like, const std::string& pooling) {
  const Pooler pooler = pooler_from_name(pooling);
  check_on_cpu("initial_pooler", "like", like);
  check(like.dim() >= 1 && like.size(like.dim() - 1) >= 1, "initial_pooler: like has shape ", shape_of(like),
        "; its last size must be the head dimension");
  const Index dim = like.size(like.dim() - 1);
  const ScalarType type = lse_type_of(like);
  const Tensor parameters = new_tensor(like, {pooler_rows(pooler, dim), dim}, type);
  write_initial_parameters(pooler, dim, dtype_of("initial_pooler", "parameters", parameters),
                           parameters.mutable_data_ptr());
  return parameters;
}

}  // namespace hsattn::torch_ops
