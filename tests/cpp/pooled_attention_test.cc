// Attention over nodes that the caller pooled: the promises of attention, and gradients of nodes, and of the pooler
// behind them.
#include <gtest/gtest.h>

#include <utility>

#include "support/pooling.h"

namespace hsattn {
namespace {

using testing::kPoolers;
using testing::NodeTensors;
using testing::normal_tensor;
using testing::pooled;
using testing::pooled_backward;
using testing::Problem;
using testing::Random;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

Index pooled_blocks(const Problem& p) { return plan_shape(p.options, 1, 1, 1, p.keys).blocks(); }
Index nodes_of(const Problem& p) { return pooled_nodes(p.keys, plan_shape(p.options, 1, 1, 1, p.keys).block); }

// Plan, outputs and gradients of a call with pooled nodes.
template <class T>
struct Result {
  Plan plan;
  Solution<T> solution;
  NodeTensors<testing::LseOf<T>> dnodes;
};

template <class T>
Result<T> solve_pooled(const Problem& p, const Tensors<T>& in, const NodeTensors<testing::LseOf<T>>& nodes,
                       const Plan* plan = nullptr, Executor& executor = serial_executor()) {
  using N = testing::LseOf<T>;
  Result<T> r;
  AttentionInputs inputs = in.inputs(p);
  inputs.pooled = nodes.views();
  r.plan = plan != nullptr ? *plan : make_plan(inputs.q, inputs.k, p.options, p.scale, executor, nodes.views().k);
  Solution<T>& s = r.solution;
  s.o = Tensor<T>(p.batch, p.heads, p.queries, p.dim);
  s.dq = s.o;
  s.dk = s.dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim);
  s.lse.assign(static_cast<std::size_t>(p.batch * p.heads * p.queries), std::numeric_limits<N>::quiet_NaN());
  attention_forward(inputs, r.plan, {s.o.view(), s.lse.data()}, executor);
  AttentionGradients grads{s.dq.view(), s.dk.view(), s.dv.view()};
  if (r.plan.shape.far_field) {
    r.dnodes.k = r.dnodes.v = Tensor<N>(p.batch, p.kv_heads, nodes_of(p), p.dim);
    grads.dpooled = Nodes{r.dnodes.k.view(), r.dnodes.v.view()};
  }
  attention_backward(inputs, r.plan, {in.dout.view(), as_const(s.o.view()), s.lse.data()}, grads, executor);
  return r;
}

NodeTensors<double> in_double(const NodeTensors<float>& nodes) {
  return {testing::converted<double>(nodes.k), testing::converted<double>(nodes.v)};
}

Problem random_problem(Random& random) {
  Problem p{.name = "pooled", .batch = uniform(random, 1, 2)};
  p.options = testing::searching_options(random, uniform(random, 0, 1) == 1);
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * testing::one_of<Index>(random, {1, 3, 8});
  p.dim = testing::one_of<Index>(random, {8, 24, 64, 80});
  p.keys = uniform(random, 1, 400);
  p.queries = uniform(random, 0, 1) == 0 ? p.keys : uniform(random, 1, p.keys);
  return p;
}

// Calls visit(parent, child) for the nodes that stand for the same tokens as the one below them, from the top down.
template <class Visit>
void for_each_single_child(const Problem& p, const Visit& visit) {
  std::vector<Index> counts;  // of nodes, level by level
  for (Index nodes = pooled_blocks(p); nodes > 1; nodes = (nodes + 1) / 2) counts.push_back(nodes);
  Index last = nodes_of(p) - 1, count = 1;  // of the level above
  for (auto below = counts.rbegin(); below != counts.rend(); ++below) {
    if (*below % 2 == 1) visit(last, last - count);
    last -= count;
    count = *below;
  }
}

NodeTensors<float> random_nodes(const Problem& p, std::uint64_t seed) {
  NodeTensors<float> nodes{normal_tensor<float>(p.batch, p.kv_heads, nodes_of(p), p.dim, seed),
                           normal_tensor<float>(p.batch, p.kv_heads, nodes_of(p), p.dim, seed + 1)};
  for (Tensor<float>* x : {&nodes.k, &nodes.v}) {
    for (Index b = 0; b < p.batch; ++b) {
      for (Index h = 0; h < p.kv_heads; ++h) {
        for_each_single_child(
            p, [&](Index parent, Index child) { std::copy_n(x->row(b, h, parent), p.dim, x->row(b, h, child)); });
      }
    }
  }
  return nodes;
}

// Gradients of nodes of the same tokens added up: kernels may attend any of them.
template <class T>
Tensor<T> joined(const Problem& p, Tensor<T> x) {
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.kv_heads; ++h) {
      for_each_single_child(p, [&](Index parent, Index child) {
        for (Index c = 0; c < p.dim; ++c) x.row(b, h, child)[c] += std::exchange(x.row(b, h, parent)[c], T{0});
      });
    }
  }
  return x;
}

void expect_close(const char* what, const Tensor<float>& found, const Tensor<double>& exact) {
  EXPECT_LE(max_error(found, exact), 1e-5 * std::max(1.0, largest_of(exact))) << what;
}

TEST(PooledAttention, AsExactAsTheReference) {
  Random random(5);
  for (int i = 0; i < 60 && !::testing::Test::HasFailure(); ++i) {
    const Problem p = random_problem(random);
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const NodeTensors<float> nodes = random_nodes(p, 77);
    const Result<float> found = solve_pooled(p, in, nodes);
    ASSERT_EQ(covers_each_token_once(found.plan), "");
    const Result<double> exact =
        solve_pooled(p,
                     testing::Tensors<double>{testing::converted<double>(in.q), testing::converted<double>(in.k),
                                              testing::converted<double>(in.v), testing::converted<double>(in.dout)},
                     in_double(nodes), &found.plan);
    expect_close("o", found.solution.o, exact.solution.o);
    expect_close("dq", found.solution.dq, exact.solution.dq);
    expect_close("dk", found.solution.dk, exact.solution.dk);
    expect_close("dv", found.solution.dv, exact.solution.dv);
    if (!found.plan.shape.far_field) continue;
    expect_close("gradient of pooled k", joined(p, found.dnodes.k), joined(p, exact.dnodes.k));
    expect_close("gradient of pooled v", joined(p, found.dnodes.v), joined(p, exact.dnodes.v));
  }
}

// The search of the kernels and that of the reference choose from the same rounded nodes.
TEST(PooledAttention, ListsAreThoseOfTheReference) {
  Random random(6);
  Index different = 0, all = 0;
  for (int i = 0; i < 20; ++i) {
    const Problem p = random_problem(random);
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const NodeTensors<float> nodes = random_nodes(p, 78), others = random_nodes(p, 178);
    const auto plan = [&](const NodeTensors<float>& n) {
      return make_plan(in.q.view(), in.k.view(), p.options, p.scale, serial_executor(), n.views().k);
    };
    const Tensor<double> q = testing::converted<double>(in.q), k = testing::converted<double>(in.k);
    const NodeTensors<double> exact_nodes = in_double(nodes);
    const Plan found = plan(nodes);
    const Plan exact = make_plan(q.view(), k.view(), p.options, p.scale, serial_executor(), exact_nodes.views().k);
    const Plan other = plan(others);
    for (std::size_t j = 0; j < found.blocks.size(); ++j) different += found.blocks[j] != exact.blocks[j];
    for (std::size_t j = 0; j < found.blocks.size(); ++j) all += found.blocks[j] != other.blocks[j];
  }
  EXPECT_LE(different, all / 100) << "near-ties of float32";  // against what other nodes change
  EXPECT_GT(all, 1000);
}

TEST(PooledAttention, OnePassEqualsPlanThenAttend) {
  Random random(7);
  for (int i = 0; i < 15; ++i) {
    const Problem p = random_problem(random);
    SCOPED_TRACE(describe(p));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const NodeTensors<float> nodes = random_nodes(p, 79);
    const Result<float> two = solve_pooled(p, in, nodes);
    AttentionInputs inputs = in.inputs(p);
    inputs.pooled = nodes.views();
    Tensor<float> o(p.batch, p.heads, p.queries, p.dim);
    std::vector<std::int32_t> lists(two.plan.blocks.size(), -7);
    attention_forward(inputs, p.options, {o.view(), nullptr}, lists.data());
    EXPECT_TRUE(same_bits(o, two.solution.o));
    EXPECT_EQ(lists, two.plan.blocks);
  }
}

TEST(PooledAttention, TheMeanGivenIsTheMeanMade) {
  Random random(8);
  Index lists = 0, different = 0;
  for (int i = 0; i < 30; ++i) {
    Problem p = random_problem(random);
    p.options.hsa.pooling = Pooling::kMean;
    p.options.hsa.mass = 0;
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const Plan plan = plan_of(p, in);
    for (const Pooler pooler : {Pooler::kAttention, Pooler::kLearnable}) {
      const auto nodes =
          pooled(pooler, plan.shape.block, in.k, in.v, testing::random_parameters<float>(pooler, p.dim, 0, 1));
      const Plan own = make_plan(in.q.view(), in.k.view(), p.options, p.scale, serial_executor(), nodes.views().k);
      const Index slots = std::max<Index>(1, plan.shape.slots());
      for (Index at = 0; at < std::ssize(plan.blocks); at += slots) {
        ++lists;
        different += !std::equal(plan.blocks.begin() + at, plan.blocks.begin() + at + slots, own.blocks.begin() + at);
      }
      const Result<float> found = solve_pooled(p, in, nodes, &plan);
      const AttentionInputs inputs = in.inputs(p);
      Solution<float> right = found.solution;
      attention_forward(inputs, plan, {right.o.view(), right.lse.data()});
      attention_backward(inputs, plan, {in.dout.view(), as_const(right.o.view()), right.lse.data()},
                         {right.dq.view(), right.dk.view(), right.dv.view()});
      EXPECT_LE(max_error(found.solution.o, right.o), 1e-5);
      EXPECT_LE(max_error(found.solution.dq, right.dq), 1e-5);
      if (!plan.shape.far_field) continue;
      const auto behind = pooled_backward(pooler, plan.shape.block, in.k, in.v,
                                          testing::random_parameters<float>(pooler, p.dim, 0, 1), found.dnodes);
      Tensor<float> dk = found.solution.dk, dv = found.solution.dv;
      dk.for_each([&](float& x, Index b, Index h, Index t, Index c) { x += behind.dk.row(b, h, t)[c]; });
      dv.for_each([&](float& x, Index b, Index h, Index t, Index c) { x += behind.dv.row(b, h, t)[c]; });
      if (pooler == Pooler::kLearnable) {
        EXPECT_LE(max_error(dk, right.dk), 1e-5);  // kAttention's keys get a gradient through the weights as well
      }
      EXPECT_LE(max_error(dv, right.dv), 1e-5);
    }
  }
  EXPECT_GT(lists, 5000);
  EXPECT_LE(different, lists / 500) << "lists may differ in near-ties alone";
}

// Loss sum(dout o) of attention over what a pooler made, with the plan held fixed: slopes in double.
TEST(PooledAttention, GradientsThroughThePoolerAreSlopes) {
  constexpr double kStep = 1e-5;
  for (const Pooler pooler : kPoolers) {
    for (const bool causal : {true, false}) {
      SCOPED_TRACE(concat(name_of(pooler), causal ? ", causal" : ", both sides"));
      Problem p{.name = "slopes", .heads = 2, .queries = 27, .keys = 29, .dim = 8};
      p.options = {Pattern::kHsa, causal, {}};
      p.options.hsa = {.window = 2,
                       .top_k = 4,
                       .candidates = 8,
                       .block = 2,
                       .sinks = 2,
                       .top_nodes = 2,
                       .beam = 2,
                       .dense_until = 0,
                       .far_field = true};
      Tensors<double> in = testing::in_double(random_tensors(p, 1));
      auto parameters = testing::random_parameters<double>(pooler, p.dim, 0.3, 3);
      const auto nodes = [&] { return pooled(pooler, 2, in.k, in.v, parameters); };
      const Result<double> found = solve_pooled(p, in, nodes());
      const auto behind = pooled_backward(pooler, 2, in.k, in.v, parameters, found.dnodes);
      const auto loss = [&] {
        AttentionInputs inputs = in.inputs(p);
        const NodeTensors<double> now = nodes();
        inputs.pooled = now.views();
        Tensor<double> o(p.batch, p.heads, p.queries, p.dim);
        attention_forward(inputs, found.plan, {o.view(), nullptr});
        double sum = 0;
        o.for_each([&](double& x, Index b, Index h, Index t, Index c) { sum += x * in.dout.row(b, h, t)[c]; });
        return sum;
      };
      const auto slope = [&](double& x) {
        const double before = x;
        x = before + kStep;
        const double up = loss();
        x = before - kStep;
        const double down = loss();
        x = before;
        return (up - down) / (2 * kStep);
      };
      for (Index t = 0; t < p.keys; t += 3) {
        for (Index c = 0; c < p.dim; c += 2) {
          EXPECT_NEAR(slope(in.k.row(0, 0, t)[c]), found.solution.dk.row(0, 0, t)[c] + behind.dk.row(0, 0, t)[c], 1e-7);
          EXPECT_NEAR(slope(in.v.row(0, 0, t)[c]), found.solution.dv.row(0, 0, t)[c] + behind.dv.row(0, 0, t)[c], 1e-7);
        }
      }
      for (std::size_t i = 0; i < parameters.size(); i += 5) {
        EXPECT_NEAR(slope(parameters[i]), behind.dparameters[i], 1e-7) << "parameter " << i;
      }
    }
  }
}

// Other tokens from t on: nothing before moves, in lists, outputs or gradients of a loss on positions before.
TEST(PooledAttention, WhatComesLaterMovesNothing) {
  Random random(9);
  Index lists_after = 0;
  for (int i = 0; i < 12; ++i) {
    Problem p{.name = "leak", .heads = 3, .queries = 260, .keys = 260, .dim = 24};
    p.options = testing::searching_options(random, true);
    p.options.hsa.far_field = true;
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
    const Result<float> a = run(in), b = run(changed);
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

TEST(PooledAttention, AnyCutEqualsTheWhole) {
  Random random(10);
  for (int i = 0; i < 6; ++i) {
    Problem whole{.name = "cut", .heads = 3, .queries = 230, .keys = 230, .dim = 24};
    whole.options = testing::searching_options(random, true);
    whole.options.hsa.far_field = i % 2 == 0;
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

TEST(PooledAttention, TheBitsDoNotDependOnThreads) {
  Random random(11);
  const auto pool = make_thread_pool(3);
  for (int i = 0; i < 8; ++i) {
    const Problem p = random_problem(random);
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const NodeTensors<float> nodes = random_nodes(p, 80);
    const Result<float> right = solve_pooled(p, in, nodes), found = solve_pooled(p, in, nodes, nullptr, *pool);
    EXPECT_EQ(found.plan, right.plan);
    EXPECT_TRUE(same_bits(found.solution, right.solution));
    EXPECT_TRUE(same_bits(found.dnodes.k, right.dnodes.k) && same_bits(found.dnodes.v, right.dnodes.v));
  }
}

TEST(PooledAttention, WherePastsAreShortNodesGetZero) {
  Problem p{.name = "dense", .heads = 2, .queries = 40, .keys = 40, .dim = 16};
  p.options.hsa = HsaOptions::training();
  const Tensors<float> in = random_tensors(p, 1);
  const Result<float> found = solve_pooled(p, in, random_nodes(p, 1));
  EXPECT_EQ(largest_of(found.dnodes.k), 0);
  EXPECT_EQ(max_error(found.dnodes.v, Tensor<float>(found.dnodes.k)), 0);
}

TEST(PooledAttention, WrongCallsAreRefused) {
  Problem p{.name = "refused", .queries = 100, .keys = 100, .dim = 16};
  Random random(1);
  p.options = testing::searching_options(random, true);
  p.options.hsa.block = 8;
  p.options.hsa.far_field = false;
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
  inputs.pooled->v.tokens = 3;
  EXPECT_EQ(error_of(forward),
            "attention_forward: pooled v has shape [1, 1, 3, 16], the pyramid of k has [1, 1, 27, 16]; they must be "
            "equal");
  inputs.pooled = nodes.views();
  const Sequence whole{0, {0, 100}, {0, 100}};
  EXPECT_EQ(error_of([&] { attention_forward(inputs, std::span(&whole, 1), p.options, {s.o.view(), nullptr}); }),
            "attention_forward: pooled keys and values were given with several sequences, which is not supported; pool "
            "and attend each sequence by itself");
}

}  // namespace
}  // namespace hsattn
