// Poolers as whole calls, in float32 and for any type but float64: parts, tasks, merging of gradients.
#pragma once

#include "hsattn/pooling/pooler.h"

namespace hsattn::pooling {

void forward(const PoolerInputs& in, const Nodes& out, Executor& executor);
void backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads, Executor& executor);

}  // namespace hsattn::pooling
