// Problems that tests pose: shapes and options, the tensors made from a seed, and one call that solves them.
#pragma once

#include <optional>
#include <random>
#include <string>
#include <vector>

#include "hsattn/hsattn.h"
#include "support/tensor.h"

namespace hsattn::testing {

using Random = std::mt19937_64;

/// A whole number from `low` to `high`, both included.
Index uniform(Random& random, Index low, Index high);

template <class T>
T one_of(Random& random, std::initializer_list<T> choices) {
  return *(choices.begin() + uniform(random, 0, static_cast<Index>(choices.size()) - 1));
}

/// The type in which tensors are stored, by the environment variable HSATTN_TEST_TYPE: float32 (or not set), bfloat16
/// or float16. Tests keep numbers as floats that the type can hold; solve() and plan_of() hand floats over in the type.
DType stored_type();

/// x as it is stored.
float as_stored(float x);

/// What may be added to twice the error of a plain implementation whose largest result is `largest`: 1e-5 in float32;
/// in half precision a unit in the last place of `largest` (at least of 1). Half of it is the rounding of the result.
double rounding_floor(double largest = 1);

struct Problem {
  std::string name;
  Index batch = 1, heads = 1, kv_heads = 1, queries = 0, keys = 0, dim = 64;
  PlanOptions options = {};
  Layout layout = Layout::kContiguous;
  std::optional<double> scale = {};

  Index group() const { return heads / kv_heads; }
  double scale_used() const;
};

/// One line for SCOPED_TRACE: every number that is needed to run it again.
std::string describe(const Problem& problem);

/// Small budgets at which every stage of the search acts: 3 and more levels, beam, rescoring, no dense positions; both
/// poolings, with and without a mass budget.
PlanOptions searching_options(Random& random, bool causal);
/// Nodes of the search of a random size that the other options allow.
void choose_node(Random& random, HsaOptions& options);
/// Each third time, if the pattern searches: a top_k for each key/value head, at most that of all.
void choose_head_budgets(Random& random, Problem& problem);

/// The same, the smallest of them and fixed: every stage acts on 100 tokens.
HsaOptions smallest_budgets(bool far_field = true);

/// The patterns whose lists follow from the position alone.
inline constexpr Pattern kListingPatterns[] = {Pattern::kSparseTransformer, Pattern::kSparseTransformerFixed,
                                               Pattern::kLongformer, Pattern::kBigBird};

/// One of them, with small budgets, a stride, dilation or seed of its own or none.
PlanOptions listing_options(Random& random, bool causal);

/// One of searching_options() or, each third time, of listing_options().
PlanOptions selecting_options(Random& random, bool causal);

template <class T>
struct Tensors {
  Tensor<T> q, k, v, dout;

  AttentionInputs inputs(const Problem& problem) const { return {q.view(), k.view(), v.view(), problem.scale}; }
};

/// Normal values, rounded as they are stored; neighbouring queries resemble each other (correlation 0.9), as in a
/// language model.
Tensors<float> random_tensors(const Problem& problem, std::uint64_t seed);
Tensors<double> in_double(const Tensors<float>& tensors);

/// body(tensors) with the tensors of random_tensors() in stored_type(), a type of C++.
template <class Body>
void with_stored_tensors(const Problem& problem, std::uint64_t seed, const Body& body) {
  const Tensors<float> in = random_tensors(problem, seed);
  with_element_type(stored_type(), [&](auto element) {
    const auto stored = [&](const Tensor<float>& x) { return converted<decltype(element)>(x, problem.layout); };
    body(Tensors<decltype(element)>{stored(in.q), stored(in.k), stored(in.v), stored(in.dout)});
  });
}

/// What forward and backward give.
template <class T>
struct Solution {
  Tensor<T> o, dq, dk, dv;
  std::vector<LseOf<T>> lse;
};

/// attention_forward and attention_backward of the public interface, into outputs full of NaN.
template <class T>
Solution<T> solve(const Problem& problem, const Tensors<T>& in, const PlanView& plan,
                  Executor& executor = serial_executor());

/// attention_forward only.
template <class T>
Solution<T> solve_forward(const Problem& problem, const Tensors<T>& in, const PlanView& plan,
                          Executor& executor = serial_executor());

/// attention_forward that plans and attends in one pass; lists go to `keep` if it is not null.
Solution<float> solve_in_one_pass(const Problem& problem, const Tensors<float>& in, std::int32_t* keep);

/// make_plan of the public interface.
template <class T>
Plan plan_of(const Problem& problem, const Tensors<T>& in, Executor& executor = serial_executor());

template <class T>
bool same_bits(const Solution<T>& a, const Solution<T>& b) {
  return same_bits(a.o, b.o) && same_bits(a.dq, b.dq) && same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv) &&
         a.lse.size() == b.lse.size() && same_bits(a.lse.data(), b.lse.data(), std::ssize(a.lse));
}

}  // namespace hsattn::testing
