// Budgets as a list of whole numbers: the form in which they cross the boundaries of languages and are stored.
#pragma once

#include <span>
#include <vector>

#include "hsattn/plan/options.h"

namespace hsattn {

/// The options in the order of their list: beam 0 and levels 0 mean auto, far_field is 0 or 1, pooling counts the names
/// of Pooling, mass and tail are in millionths. Budgets of single heads follow, as many as there are.
std::vector<Index> budgets_of(const HsaOptions& options);

/// `mass` as the search and stored budgets have it: rounded to millionths.
double mass_budget(const HsaOptions& options);

/// `tail` in the same way.
double tail_share(const HsaOptions& options);

/// The options of a list. Throws InvalidArgument if there are too few numbers, or one stands for nothing.
HsaOptions options_of_budgets(std::span<const Index> budgets);

}  // namespace hsattn
