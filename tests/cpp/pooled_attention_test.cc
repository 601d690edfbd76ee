// Attention over nodes that the caller pooled: against the reference, gradients of nodes and of the pooler behind them.
#include "support/pooled_attention.h"

#include <gtest/gtest.h>

namespace hsattn {
namespace {

using testing::joined;
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

void expect_close(const char* what, const Tensor<float>& found, const Tensor<double>& exact) {
  EXPECT_LE(max_error(found, exact), 1e-5 * std::max(1.0, largest_of(exact))) << what;
}

TEST(PooledAttention, AsExactAsTheReference) {
  Random random(5);
  for (int i = 0; i < 60 && !::testing::Test::HasFailure(); ++i) {
    const Problem p = pooled_problem(random);
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const NodeTensors<float> nodes = random_nodes(p, 77);
    const PooledResult<float> found = solve_pooled(p, in, nodes);
    ASSERT_EQ(covers_each_token_once(found.plan), "");
    const PooledResult<double> exact =
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
    const Problem p = pooled_problem(random);
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
    const Problem p = pooled_problem(random);
    SCOPED_TRACE(describe(p));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const NodeTensors<float> nodes = random_nodes(p, 79);
    const PooledResult<float> two = solve_pooled(p, in, nodes);
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
    Problem p = pooled_problem(random);
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
      const PooledResult<float> found = solve_pooled(p, in, nodes, &plan);
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
      const PooledResult<double> found = solve_pooled(p, in, nodes());
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

}  // namespace
}  // namespace hsattn
