// Finds the dispatcher ops of torch_ops/.
#pragma once

#include "hsattn/base/error.h"
#include "hsattn/base/types.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

/// The type of a tensor's elements. Throws InvalidArgument if attention does not take it.
DType type_of(const at::Tensor& x);

/// Throws Unsupported if the program was built without torch_ops/.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_op(const char* name) {
  const auto op = c10::Dispatcher::singleton().findSchema({name, ""});
  if (!op) throw Unsupported(concat("the op ", name, " is not in this program; build it with torch_ops/"));
  return op->typed<Signature>();
}

}  // namespace hsattn::lm
