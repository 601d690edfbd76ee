// No leak: what comes later moves nothing that came before, bit by bit. A selection that leaks must be caught.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "hsattn/kernels/reference/reference.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Random;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

using MakePlan = std::function<Plan(const Problem&, const Tensors<float>&)>;

Plan honest_plan(const Problem& p, const Tensors<float>& in) { return plan_of(p, in); }

// The double: 16 positions choose one list together, from the past of the first. Every listed block lies in the past of
// every position that gets it; the leak is that later queries take part in the choice.
Plan leaking_plan(const Problem& p, const Tensors<float>& in) {
  constexpr Index kTile = 16;
  Plan plan = plan_of(p, in);
  const PlanShape& shape = plan.shape;
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.kv_heads; ++h) {
      const reference::SearchBudget budget(shape, p.options, h);
      const reference::Pyramid keys = reference::make_search_pyramid(reference::load_head(in.k.view(), b, h),
                                                                     shape.node, shape.pooling, shape.parts);
      std::vector<reference::Matrix> heads;
      for (Index g = 0; g < p.group(); ++g) heads.push_back(reference::load_head(in.q.view(), b, h * p.group() + g));
      for (Index first = 0; first < p.queries; first += kTile) {
        if (shape.dense(shape.position(first))) continue;
        const Index end = std::min(first + kTile, p.queries);
        std::vector<std::span<const double>> queries;
        for (Index i = first; i < end; ++i) {
          for (const reference::Matrix& head : heads) queries.push_back(head.row(i));
        }
        const std::vector<Index> list =
            select_position(queries, keys, shape, budget, p.scale_used(), shape.position(first));
        for (Index i = first; i < end; ++i) {
          std::int32_t* out = plan.blocks.data() + ((b * p.kv_heads + h) * p.queries + i) * shape.slots();
          std::fill_n(out, shape.slots(), -1);
          std::copy(list.begin(), list.end(), out);
        }
      }
    }
  }
  check_plan(plan);
  return plan;
}

// Other tokens from position `t` on.
void replace_from(Tensors<float>& in, const Problem& p, Index t, std::uint64_t seed) {
  const Tensors<float> other = random_tensors(p, seed);
  const Index first_query = std::max<Index>(0, t - (p.keys - p.queries));
  for (const auto& [member, first] :
       {std::pair{&Tensors<float>::q, first_query}, {&Tensors<float>::k, t}, {&Tensors<float>::v, t}}) {
    (in.*member).for_each([&, m = member, f = first](float& x, Index b, Index h, Index i, Index c) {
      if (i >= f) x = 3 * (other.*m).row(b, h, i)[c];
    });
  }
}

// Elements of tokens [begin, end) that differ in a bit. 0 and -0 are the same zero: a sum may reach either.
Index moved(const Tensor<float>& a, const Tensor<float>& b, Index begin, Index end) {
  Index count = 0;
  a.for_each([&](const float& x, Index i, Index h, Index t, Index c) {
    if (t >= begin && t < end) count += !(x == b.row(i, h, t)[c]);
  });
  return count;
}

// Largest difference on tokens before t, relative to the largest value, which may be 0: of the first position alone.
double distance(const Tensor<float>& a, const Tensor<float>& b, Index t) {
  double largest = 0;
  a.for_each([&](const float& x, Index, Index, Index, Index) { largest = std::max<double>(largest, std::abs(x)); });
  const double error = max_error(tokens_of(a, 0, t), tokens_of(b, 0, t));
  return largest == 0 ? error : error / largest;
}

Index moved_lists(const Plan& a, const Plan& b, Index first_query_after) {
  Index count = 0;
  const Index slots = a.shape.slots(), queries = a.shape.queries;
  if (slots == 0) return 0;
  for (Index at = 0; at < std::ssize(a.blocks); ++at) {
    if (at / slots % queries < first_query_after) count += a.blocks[at] != b.blocks[at];
  }
  return count;
}

struct Leak {
  Index lists = 0, outputs = 0, query_gradients = 0, future_gradients = 0;
  double key_gradients = 0;  // how far dk and dv before t moved, relative to the largest of them
};

// Counts what replacing the tokens from t on moves before t: in lists, in o and lse, and in the gradients of a loss on
// the positions before t; and the gradients of that loss that are not zero from t on.
//
// dk and dv are sums over positions: the kernels add them in the order of positions, whatever else a tile holds.
Leak leak_at(const Problem& p, std::uint64_t seed, Index t, const MakePlan& make) {
  Tensors<float> in = random_tensors(p, seed);
  const Index first_after = std::max<Index>(0, t - (p.keys - p.queries));
  in.dout.for_each([&](float& x, Index, Index, Index i, Index) { x = i < first_after ? x : 0; });
  Tensors<float> changed = in;
  replace_from(changed, p, t, seed + 1000);

  const Plan plan_a = make(p, in), plan_b = make(p, changed);
  const Solution<float> a = solve(p, in, plan_a), b = solve(p, changed, plan_b);
  Leak leak;
  leak.lists = moved_lists(plan_a, plan_b, first_after);
  leak.outputs = moved(a.o, b.o, 0, first_after);
  for (std::size_t row = 0; row < a.lse.size(); ++row) {
    if (static_cast<Index>(row) % p.queries < first_after) leak.outputs += a.lse[row] != b.lse[row];
  }
  leak.query_gradients = moved(a.dq, b.dq, 0, first_after);
  leak.key_gradients = std::max(distance(a.dk, b.dk, t), distance(a.dv, b.dv, t));
  const auto count_future = [&](const Tensor<float>& gradient, Index from) {
    gradient.for_each(
        [&](const float& x, Index, Index, Index i, Index) { leak.future_gradients += i >= from && x != 0; });
  };
  count_future(a.dq, first_after);
  count_future(a.dk, t);
  count_future(a.dv, t);
  return leak;
}

Problem random_problem(Random& random, const PlanOptions& options) {
  Problem p{.name = "random", .options = options};
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * testing::one_of<Index>(random, {1, 3});
  p.dim = testing::one_of<Index>(random, {8, 24, 64});
  p.keys = uniform(random, 150, 350);
  p.queries = uniform(random, 0, 2) == 0 ? uniform(random, 20, p.keys) : p.keys;
  choose_head_budgets(random, p);
  return p;
}

TEST(Leak, NothingBeforeATokenMovesWithIt) {
  Random random(77);
  for (int i = 0; i < 60; ++i) {
    const Problem p = random_problem(random, testing::selecting_options(random, true));
    const Index t = p.keys - uniform(random, 1, p.queries - 1);
    SCOPED_TRACE(describe(p) + concat(", seed ", i, ", t ", t));
    const Leak leak = leak_at(p, static_cast<std::uint64_t>(i), t, honest_plan);
    EXPECT_EQ(leak.lists, 0);
    EXPECT_EQ(leak.outputs, 0);
    EXPECT_EQ(leak.query_gradients, 0);
    EXPECT_EQ(leak.key_gradients, 0);
    EXPECT_EQ(leak.future_gradients, 0);
  }
}

TEST(Leak, TheTestCatchesPositionsThatChooseTogether) {
  Random random(77);
  Index caught = 0, caught_in_gradients = 0;
  constexpr int kTrials = 10;
  for (int i = 0; i < kTrials; ++i) {
    Problem p = random_problem(random, testing::searching_options(random, true));
    p.queries = p.keys;
    const Index t = p.keys - 24;  // inside a tile of 16, or at most one tile before the end
    const Leak leak = leak_at(p, static_cast<std::uint64_t>(i), t - t % 16 + 8, leaking_plan);
    caught += leak.lists > 0 && leak.outputs > 0;
    caught_in_gradients += leak.query_gradients > 0 && leak.key_gradients > 1e-4;
  }
  EXPECT_GE(caught, kTrials - 1);
  EXPECT_GE(caught_in_gradients, kTrials - 1);
}

TEST(Leak, TheTestCatchesAttentionToTheFuture) {
  Random random(78);
  for (int i = 0; i < 5; ++i) {
    Problem p = random_problem(random, testing::selecting_options(random, false));
    const Leak leak = leak_at(p, static_cast<std::uint64_t>(i), p.keys - p.queries / 2, honest_plan);
    EXPECT_GT(leak.outputs, 0);
    EXPECT_GT(leak.future_gradients, 0);
  }
}

}  // namespace
}  // namespace hsattn
