// Features of queries and keys, and their gradients; see FeatureMap. Compiled once per instruction set.
#pragma once

#include "hsattn/baselines/product-inl.h"
#include "hsattn/baselines/scan.h"

namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE {

constexpr float kLowestElu = -20.0F;      // of elu's argument
constexpr float kLowestFeature = -30.0F;  // of the logarithm of a performer's feature, the row's largest being 0

// exp(x) for -87 < x <= 0.
HSATTN_INLINE F exp_of_negative(F x) {
  F integer;
  const F p = exp_reduced<false>(x, &integer);
  return scale_by_power(p, integer);
}

HSATTN_INLINE void clear_padding(const PackedFeatures& f, float* phi) {
  for (Index i = f.count; i < f.padded; ++i) phi[i] = 0;
}

HSATTN_APART void elu_features(const PackedFeatures& f, const float* x, Index begin, Index end, float* phi) {
  for (Index r = begin; r < end; ++r) {
    float* row = phi + r * f.padded;
    for (Index i = 0; i < f.padded; i += kLanes) {
      const F y = load(x + r * f.padded_dim + i);
      const F low = exp_of_negative(min_keep_nan(zero(), max_keep_nan(set1(kLowestElu), y)));
      store(row + i, select(above(y, zero()), add(y, set1(1.0F)), low));
    }
    clear_padding(f, row);
  }
}

// The largest of the row's projections; NaN counts as nothing.
HSATTN_INLINE float largest_projection(const PackedFeatures& f, float* row) {
  for (Index i = f.count; i < f.padded; ++i) row[i] = kMasked;
  F top = set1(kMasked);
  for (Index i = 0; i < f.padded; i += kLanes) top = max_keep_nan(load(row + i), top);
  return reduce_max(top);
}

// Splits exp(x) into 2^exponent exp(rest) with rest in (-ln 2, 0]. No exponent if x is not finite: the row is NaN.
HSATTN_INLINE float split_power(float x, float* exponent) {
  *exponent = exponent_above(x);
  if (!(*exponent > kMasked && *exponent < -kMasked)) *exponent = 0;
  const float rest = (x - *exponent * 0.693359375F) + *exponent * 2.12194440e-4F;
  return rest > 0 ? 0.0F : rest < -kLn2 ? -kLn2 : rest;
}

// Projections, then exp(projection - largest + rest). A query's scale does not matter: rest is 0. A key's is
// exp(largest - |y|^2 / 2), of which the power of two goes to `exponents`.
HSATTN_APART void random_features(const PackedFeatures& f, const float* y, Index begin, Index end, float* phi,
                                  float* exponents) {
  product<false>({y, f.padded_dim, 1}, {f.columns.get(), f.padded}, f.dim, f.padded, {phi, f.padded}, begin, end);
  for (Index r = begin; r < end; ++r) {
    float* row = phi + r * f.padded;
    const float* vector = y + r * f.padded_dim;
    const float largest = largest_projection(f, row);
    float rest = 0;
    if (exponents != nullptr) {
      rest = split_power(largest - 0.5F * dot_of_rows(vector, vector, f.padded_dim), exponents + r);
    }
    for (Index i = 0; i < f.padded; i += kLanes) {
      const F x = max_keep_nan(set1(kLowestFeature), sub(load(row + i), set1(largest)));
      store(row + i, exp_of_negative(add(x, set1(rest))));
    }
    clear_padding(f, row);
  }
}

// phi of rows [begin, end) of x, [rows, padded]. `exponents` null: of queries.
HSATTN_INLINE void features_of_rows(const PackedFeatures& f, const float* x, Index begin, Index end, float* phi,
                                    float* exponents) {
  if (f.random) {
    random_features(f, x, begin, end, phi, exponents);
  } else {
    elu_features(f, x, begin, end, phi);
  }
}

HSATTN_APART void elu_gradients(const PackedFeatures& f, const float* phi, const float* dphi, Index begin, Index end,
                                float* dx) {
  for (Index i = begin * f.padded; i < end * f.padded; i += kLanes)
    store(dx + i, mul(load(dphi + i), min_keep_nan(set1(1.0F), load(phi + i))));
}

// With u = dphi phi: dy = W^T u, less (sum of u) y for keys; dx = root_scale dy. u replaces dphi.
HSATTN_APART void random_gradients(const PackedFeatures& f, const float* y, const float* phi, float* dphi, Index begin,
                                   Index end, float* dx) {
  for (Index i = begin * f.padded; i < end * f.padded; i += kLanes) store(dphi + i, mul(load(dphi + i), load(phi + i)));
  product<false>({dphi, f.padded, 1}, {f.rows.get(), f.padded_dim}, f.count, f.padded_dim, {dx, f.padded_dim}, begin,
                 end);
  for (Index r = begin; r < end; ++r) {
    float* row = dx + r * f.padded_dim;
    if (y != nullptr) {
      F sum = zero();
      for (Index i = 0; i < f.padded; i += kLanes) sum = add(sum, load(dphi + r * f.padded + i));
      add_scaled_row(row, y + r * f.padded_dim, f.padded_dim, -sum_of_lanes(sum));
    }
    scale_row(row, f.padded_dim, f.root_scale);
  }
}

// Gradient of the rows that phi was made of; `y` are these rows for keys, null for queries. Overwrites dphi.
HSATTN_INLINE void gradients_of_rows(const PackedFeatures& f, const float* y, const float* phi, float* dphi,
                                     Index begin, Index end, float* dx) {
  if (f.random) {
    random_gradients(f, y, phi, dphi, begin, end, dx);
  } else {
    elu_gradients(f, phi, dphi, begin, end, dx);
  }
}

}  // namespace hsattn::cpu::HSATTN_SIMD_NAMESPACE
