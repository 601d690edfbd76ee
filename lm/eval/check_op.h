// Compares the ops, and PyTorch's SDPA, with exact rows in double, forward and backward, at any length.
#pragma once

#include "hsattn/plan/options.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

struct OpCheck {
  double forward_error = 0;    ///< largest difference, as a share of the largest exact value; infinite for NaN
  double backward_error = 0;   ///< the same over dq, dk and dv together; 0 if not checked
  double attended_tokens = 0;  ///< per position on average; pooled nodes not counted
};

/// Checks `rows` positions of every head, evenly spread, against their own plan. In backward only these rows have a
/// gradient, so that all of dk and dv can be told exactly.
OpCheck check_op(const PlanOptions& options, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                 int64_t rows, bool backward);

/// The same of causal linear attention, or performer's if `features` [features, d] are defined, with every weight of
/// these rows in memory.
OpCheck check_linear(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& features,
                     int64_t rows, bool backward);

/// PyTorch's causal attention of the same tensors, as the ops take them.
at::Tensor causal_sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

/// The same of causal_sdpa(): what the type of the tensors costs alone.
OpCheck check_causal_sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t rows, bool backward);

}  // namespace hsattn::lm
