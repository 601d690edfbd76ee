// Rows in double, as the references of this folder add them up.
#pragma once

#include "hsattn/base/types.h"

namespace hsattn::reference {

inline double dot(const double* a, const double* b, Index count) {
  double sum = 0;
  for (Index i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

inline void add_scaled(double* to, double factor, const double* row, Index count) {
  for (Index i = 0; i < count; ++i) to[i] += factor * row[i];
}

}  // namespace hsattn::reference
