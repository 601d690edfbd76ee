// Budgets for the heads of a pretrained model: how a total is shared out, and how small it may be. No torch here.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "lm/model/config.h"

namespace hsattn::lm {

/// What a head's top_k may be: multiples of `block` from `least` to `most`.
struct BudgetRange {
  Index least = 64, most = 2048, block = 8;
};

/// What budgets cost a head; between them the error is a power of the budget, beyond them it goes on as it did.
struct BudgetCurve {
  std::vector<Index> top_k;    ///< ascending
  std::vector<double> errors;  ///< of each, in a measure that adds up over heads
};

/// Budgets for curves: from `least` to `most`, each twice the one before. (Four times is too coarse: straight lines
/// bend at what is measured, and budgets gather there.)
std::vector<Index> measured_budgets(const BudgetRange& range);

/// top_k of each head: those with the smallest sum of errors among all that are `average` on average, up to rounding.
std::vector<Index> allocate_budgets(const std::vector<BudgetCurve>& curves, double average, const BudgetRange& range);

/// `average` for each of `heads`, rounded to the range.
std::vector<Index> equal_budgets(Index heads, double average, const BudgetRange& range);

/// The smallest value of [least, most] for which `holds`, up to a factor of (most / least)^(1 / 2^steps): `steps`
/// halvings of the logarithm after both ends. `holds` is taken to be monotone. Nothing if not even `most` holds.
std::optional<double> smallest_that_holds(double least, double most, Index steps,
                                          const std::function<bool(double)>& holds);

/// Of all tokens up to and with its own, what a position attends one by one.
struct AttendedShare {
  double last = 0;     ///< of the last position
  double average = 0;  ///< over all positions
};
AttendedShare operator+(const AttendedShare& a, const AttendedShare& b);
AttendedShare operator/(const AttendedShare& a, double divisor);

/// What is attended, and the share of full attention's probability on it.
struct HeldShare {
  double mass = 0;
  AttendedShare attended;
};
HeldShare operator+(const HeldShare& a, const HeldShare& b);
HeldShare operator/(const HeldShare& a, double divisor);

/// Averages over layers, which attend `tokens` tokens each, by their rules; with a mass budget, what they may attend. A
/// dense_until of -1 is what it is for float32.
AttendedShare attended_share(const std::vector<AttentionOptions>& layers, Index tokens);

/// Numbers of `count` windows, divided so that both parts are spread over the text: `first` of them, and the rest.
struct WindowSplit {
  std::vector<Index> first, rest;
};
WindowSplit split_windows(Index count, Index first);

}  // namespace hsattn::lm
