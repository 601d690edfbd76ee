// What attention over pooled nodes promises besides its numbers: nothing leaks, any cut equals the whole, threads leave
// no trace, sequences are alone, wrong calls are refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support/pooled_attention.h"

namespace hsattn {
namespace {

using testing::kPoolers;
using testing::NodeTensors;
using testing::pooled;
using testing::pooled_backward;
using testing::pooled_problem;
using testing::PooledResult;
using testing::Problem;
using testing::Random;
using testing::random_nodes;
using testing::Solution;
using testing::solve_pooled;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

// Whether the query sees a node over this block, by the plan's rules.
bool sees_node_over(const Plan& plan, Index h, Index query, Index block) {
  std::vector<FarNode> nodes;
  far_field_of(plan.shape, plan.shape.position(query), plan.list(0, h, query), nodes);
  return std::any_of(nodes.begin(), nodes.end(), [&](const FarNode& n) { return block >> n.level == n.index; });
}

void spoil_nodes_over(Index block, const Problem& p, Tensor<float>& nodes, Index h) {
  Index first = 0;  // of a level
  for (Index count = testing::pooled_blocks(p), index = block;; count = (count + 1) / 2, index /= 2) {
    std::fill_n(nodes.row(0, h, first + index), p.dim, std::nanf(""));
    if (count == 1) return;
    first += count;
  }
}

// What a node holds reaches only rows that see it, though 4 rows share a walk over nodes: neither NaN in given nodes,
// nor a sum of finite values that overflows.
TEST(PooledAttentionPromises, NodesThatAreNotFiniteReachOnlyRowsThatSeeThem) {
  constexpr Index kBlock = 5;
  Problem p{.name = "not finite", .heads = 2, .kv_heads = 2, .queries = 96, .keys = 96, .dim = 16};
  p.options = {Pattern::kHsa, true, testing::smallest_budgets()};
  p.options.hsa.block = 8;
  p.options.hsa.mass = 0;
  const Tensors<float> in = random_tensors(p, 1);
  const NodeTensors<float> nodes = random_nodes(p, 2);
  const PooledResult<float> clean = solve_pooled(p, in, nodes);
  NodeTensors<float> bad = nodes;
  for (const Index h : {0, 1}) {
    spoil_nodes_over(kBlock, p, bad.k, h);
    spoil_nodes_over(kBlock, p, bad.v, h);
  }
  const PooledResult<float> found = solve_pooled(p, in, bad, &clean.plan);
  Index beside = 0, reached = 0;
  for (Index h = 0; h < p.heads; ++h) {
    for (Index i = 0; i < p.queries; ++i) {
      const float* row = found.solution.o.row(0, h, i);
      if (sees_node_over(clean.plan, h, i, kBlock)) {
        ++reached;
        EXPECT_TRUE(std::isnan(row[0])) << "head " << h << ", query " << i;
        continue;
      }
      ++beside;
      EXPECT_TRUE(testing::same_bits(row, clean.solution.o.row(0, h, i), p.dim)) << "head " << h << ", query " << i;
      EXPECT_TRUE(testing::same_bits(found.solution.dq.row(0, h, i), clean.solution.dq.row(0, h, i), p.dim));
    }
  }
  EXPECT_GT(beside, 80);
  EXPECT_GT(reached, 20);
}

TEST(PooledAttentionPromises, SumsThatOverflowReachOnlyRowsThatSeeThem) {
  constexpr Index kBlock = 5;
  Problem p{.name = "overflow", .queries = 96, .keys = 96, .dim = 16};
  p.options = {Pattern::kHsa, true, testing::smallest_budgets()};
  p.options.hsa.block = 8;
  p.options.hsa.mass = 0;
  Tensors<float> in = random_tensors(p, 1);
  for (Index t = kBlock * 8; t < kBlock * 8 + 8; ++t) std::fill_n(in.v.row(0, 0, t), p.dim, 1e38F);
  const Plan plan = plan_of(p, in);
  Tensor<float> o(1, 1, p.queries, p.dim);
  attention_forward(in.inputs(p), plan, {o.view(), nullptr});
  KeyValueCache cache({.kv_heads = 1, .dim = p.dim, .plan = p.options});
  cache.append(as_const(in.k.view()), as_const(in.v.view()));
  Tensor<float> cached = o;
  cache.attend(as_const(in.q.view()), p.scale, {cached.view(), nullptr});
  EXPECT_TRUE(same_bits(o, cached));
  Index reached = 0, listed = 0;
  for (Index i = 0; i < p.queries; ++i) {
    const bool sees = sees_node_over(plan, 0, i, kBlock);
    reached += sees;
    listed += !sees && i >= 64;
    EXPECT_TRUE(sees || std::isfinite(o.row(0, 0, i)[0])) << "query " << i;
  }
  EXPECT_GT(reached, 5);
  EXPECT_GT(listed, 5);
}

// Other tokens from t on: nothing before moves, in lists, outputs or gradients of a loss on positions before.
TEST(PooledAttentionPromises, WhatComesLaterMovesNothing) {
  Random random(9);
  Index lists_after = 0;
  for (int i = 0; i < 12; ++i) {
    Problem p{.name = "leak", .heads = 3, .queries = 260, .keys = 260, .dim = 24};
    p.options = testing::searching_options(random, true);
    p.options.hsa.far_field = true;
    p.options.hsa.node = 0;
    p.options.hsa.parts = 1;
    const Pooler pooler = kPoolers[i % 3];
    const Index cut = uniform(random, 100, 250);
    SCOPED_TRACE(describe(p) + concat(", ", name_of(pooler), ", from ", cut));
    Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    in.dout.for_each([&](float& x, Index, Index, Index t, Index) { x = t < cut ? x : 0; });
    Tensors<float> changed = in;
    for (Tensor<float>* x : {&changed.q, &changed.k, &changed.v}) {
      x->for_each([&](float& e, Index, Index, Index t, Index) { e = t < cut ? e : 1 - 2 * e; });
    }
    const auto parameters = testing::random_parameters<float>(pooler, p.dim, 0.3, 3);
    const auto run = [&](const Tensors<float>& x) {
      return solve_pooled(p, x, pooled(pooler, p.options.hsa.block, x.k, x.v, parameters));
    };
    const PooledResult<float> a = run(in), b = run(changed);
    for (Index t = 0; t < p.queries; ++t) {
      const auto x = a.plan.list(0, 0, t), y = b.plan.list(0, 0, t);
      const bool same = std::equal(x.begin(), x.end(), y.begin(), y.end());
      ASSERT_TRUE(same || t >= cut);
      lists_after += !same;
    }
    EXPECT_TRUE(same_bits(tokens_of(a.solution.o, 0, cut), tokens_of(b.solution.o, 0, cut)));
    EXPECT_TRUE(same_bits(a.dnodes.k, b.dnodes.k));
    EXPECT_TRUE(same_bits(a.dnodes.v, b.dnodes.v));
    EXPECT_GT(largest_of(a.dnodes.v), 0);
    EXPECT_EQ(largest_of(tokens_of(a.solution.dk, cut, p.keys)), 0);
    EXPECT_EQ(largest_of(tokens_of(a.solution.dv, cut, p.keys)), 0);
    const auto da = pooled_backward(pooler, p.options.hsa.block, in.k, in.v, parameters, a.dnodes);
    const auto db = pooled_backward(pooler, p.options.hsa.block, changed.k, changed.v, parameters, b.dnodes);
    EXPECT_TRUE(same_bits(da.dk, db.dk) && same_bits(da.dv, db.dv));
    EXPECT_EQ(da.dparameters, db.dparameters);
    EXPECT_EQ(largest_of(tokens_of(da.dv, cut, p.keys)), 0);
  }
  EXPECT_GT(lists_after, 20);  // what was changed does change lists
}

TEST(PooledAttentionPromises, AnyCutEqualsTheWhole) {
  Random random(10);
  for (int i = 0; i < 6; ++i) {
    Problem whole{.name = "cut", .heads = 3, .queries = 230, .keys = 230, .dim = 24};
    whole.options = testing::searching_options(random, true);
    whole.options.hsa.far_field = i % 2 == 0;
    whole.options.hsa.node = 0;
    whole.options.hsa.parts = 1;
    const Pooler pooler = kPoolers[i % 3];
    SCOPED_TRACE(describe(whole) + concat(", ", name_of(pooler)));
    const Tensors<float> in = random_tensors(whole, static_cast<std::uint64_t>(i));
    const auto parameters = testing::random_parameters<float>(pooler, whole.dim, 0.3, 3);
    const auto run = [&](const Problem& p, const Tensors<float>& x) {
      return solve_pooled(p, x, pooled(pooler, p.options.hsa.block, x.k, x.v, parameters)).solution.o;
    };
    const Tensor<float> right = run(whole, in);
    for (const auto& [begin, end] : {std::pair<Index, Index>{0, 70}, {70, 71}, {71, 140}, {140, 229}, {229, 230}}) {
      Problem p = whole;
      p.queries = end - begin;
      p.keys = end;
      const Tensors<float> piece{tokens_of(in.q, begin, end), tokens_of(in.k, 0, end), tokens_of(in.v, 0, end),
                                 tokens_of(in.dout, begin, end)};
      EXPECT_TRUE(same_bits(run(p, piece), tokens_of(right, begin, end))) << begin << " to " << end;
    }
  }
}

TEST(PooledAttentionPromises, TheBitsDoNotDependOnThreads) {
  Random random(11);
  const auto pool = make_thread_pool(3);
  for (int i = 0; i < 8; ++i) {
    const Problem p = pooled_problem(random);
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const NodeTensors<float> nodes = random_nodes(p, 80);
    const PooledResult<float> right = solve_pooled(p, in, nodes), found = solve_pooled(p, in, nodes, nullptr, *pool);
    EXPECT_EQ(found.plan, right.plan);
    EXPECT_TRUE(same_bits(found.solution, right.solution));
    EXPECT_TRUE(same_bits(found.dnodes.k, right.dnodes.k) && same_bits(found.dnodes.v, right.dnodes.v));
  }
}

TEST(PooledAttentionPromises, WherePastsAreShortNodesGetZero) {
  Problem p{.name = "dense", .heads = 2, .queries = 40, .keys = 40, .dim = 16};
  p.options.hsa = HsaOptions::paper();
  const Tensors<float> in = random_tensors(p, 1);
  const PooledResult<float> found = solve_pooled(p, in, random_nodes(p, 1));
  EXPECT_EQ(largest_of(found.dnodes.k), 0);
  EXPECT_EQ(max_error(found.dnodes.v, Tensor<float>(found.dnodes.k)), 0);
}

TEST(PooledAttentionPromises, WrongCallsAreRefused) {
  Problem p{.name = "refused", .queries = 100, .keys = 100, .dim = 16};
  Random random(1);
  p.options = testing::searching_options(random, true);
  p.options.hsa.block = 8;
  p.options.hsa.far_field = false;
  p.options.hsa.node = 0;
  p.options.hsa.parts = 1;
  const Tensors<float> in = random_tensors(p, 1);
  NodeTensors<float> nodes = random_nodes(p, 1);
  const Plan plan = plan_of(p, in);
  Solution<float> s;
  s.o = s.dq = s.dk = s.dv = Tensor<float>(1, 1, 100, 16);
  s.lse.resize(100);
  AttentionInputs inputs = in.inputs(p);
  inputs.pooled = nodes.views();
  const auto error_of = [](const auto& run) {
    try {
      run();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const AttentionSaved saved{in.dout.view(), as_const(s.o.view()), s.lse.data()};
  const AttentionGradients grads{s.dq.view(), s.dk.view(), s.dv.view()};
  const auto forward = [&] { attention_forward(inputs, plan, {s.o.view(), s.lse.data()}); };
  const auto backward = [&](const Plan& by, std::optional<Nodes> dpooled) {
    AttentionGradients all = grads;
    all.dpooled = dpooled;
    attention_backward(inputs, by, saved, all);
  };
  EXPECT_EQ(error_of(forward), "no error");
  EXPECT_EQ(error_of([&] { backward(plan, {}); }), "no error");
  EXPECT_EQ(error_of([&] { backward(plan, Nodes{nodes.k.view(), nodes.v.view()}); }),
            "attention_backward: gradients of pooled keys and values are asked for, but the far field is off; they get "
            "one through it alone");
  Plan far = plan;
  far.shape.far_field = true;
  EXPECT_EQ(error_of([&] { backward(far, {}); }),
            "attention_backward: pooled keys and values are given and the far field is on, but there is no memory for "
            "their gradients");
  EXPECT_EQ(error_of([&] { backward(far, Nodes{nodes.k.view(), nodes.v.view()}); }),
            "attention_backward: the gradient of pooled k shares memory with pooled k; it must lie apart");
  PlanOptions by_parts = p.options;
  by_parts.hsa.parts = 2;
  EXPECT_EQ(error_of([&] { attention_forward(inputs, by_parts, {s.o.view(), s.lse.data()}); }),
            "attention_forward: parts is 2 and nodes are given, which come whole; parts must be 1");
  inputs.pooled->v.tokens = 3;
  EXPECT_EQ(error_of(forward),
            "attention_forward: pooled v has shape [1, 1, 3, 16], the pyramid of k has [1, 1, 27, 16]; they must be "
            "equal");
  inputs.pooled = nodes.views();
  const std::vector<Sequence> two = {{0, {0, 3}, {0, 3}}, {0, {3, 100}, {3, 100}}};
  EXPECT_EQ(error_of([&] { attention_forward(inputs, two, p.options, {s.o.view(), nullptr}); }),
            "attention_forward: pooled k has 27 nodes; the sequences of batch element 0 have 28");
}

}  // namespace
}  // namespace hsattn
