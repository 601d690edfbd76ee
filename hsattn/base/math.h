// Small integer helpers.
#pragma once

#include <bit>

#include "hsattn/base/types.h"

namespace hsattn {

/// Quotients rounded towards minus and plus infinity; b > 0.
constexpr Index floor_div(Index a, Index b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }
constexpr Index ceil_div(Index a, Index b) { return -floor_div(-a, b); }
constexpr Index round_up(Index a, Index b) { return ceil_div(a, b) * b; }

/// log2 of a power of two.
constexpr Index log2_exact(Index power) { return std::countr_zero(static_cast<std::uint64_t>(power)); }

}  // namespace hsattn
