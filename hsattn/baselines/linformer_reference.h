// Linformer in plain loops, in double: what the kernels are compared with, and what float64 tensors run on.
#pragma once

#include "hsattn/base/view.h"
#include "hsattn/baselines/linformer_job.h"

namespace hsattn::reference {

// One query head with its keys and values.
struct LinformerHead {
  LinformerShape shape;
  Rows<const double> q, k, v;
  Rows<const double> project_keys, project_values;  // [rank, longest]
  double scale = 1;
};

// `lse` [queries] may be null.
void linformer_forward(const LinformerHead& head, const Rows<double>& o, double* lse);

// Where gradients go; all but dq are added to.
struct LinformerHeadGradients {
  Rows<double> dq, dk, dv, dproject_keys, dproject_values;
};

void linformer_backward(const LinformerHead& head, const Rows<const double>& dout, const LinformerHeadGradients& grads);

}  // namespace hsattn::reference
