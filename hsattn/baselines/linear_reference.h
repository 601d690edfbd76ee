// Linear attention in plain loops, in double: what the kernels are compared with, and what float64 tensors run on.
#pragma once

#include "hsattn/base/view.h"
#include "hsattn/baselines/linear.h"

namespace hsattn::reference {

// One query head with its keys and values.
struct LinearHead {
  Rows<const double> q, k, v;
  FeatureMap map;
  double scale = 1;
  bool causal = true;
};

// `before` and `after`: [features + 1, dim + 1] as in LinearState, or null.
void linear_forward(const LinearHead& head, const double* before, double* after, const Rows<double>& o);

// Overwrites dq, adds to dk and dv.
void linear_backward(const LinearHead& head, const Rows<const double>& dout, const Rows<double>& dq,
                     const Rows<double>& dk, const Rows<double>& dv);

}  // namespace hsattn::reference
