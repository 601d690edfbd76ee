// Several sequences in shared tensors: each is pooled, and attends what was pooled, as if it were alone.
#include <gtest/gtest.h>

#include "support/pooled_attention.h"

namespace hsattn {
namespace {

using testing::kPoolers;
using testing::LseOf;
using testing::NodeTensors;
using testing::normal_tensor;
using testing::pooled;
using testing::PooledResult;
using testing::Problem;
using testing::Random;
using testing::solve_pooled;
using testing::Tensor;
using testing::Tensors;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Out of order, short and long, without keys, with fewer queries than keys, in two batch elements; keys [70, 75) of the
// first and [1300, 1303) of the second are of none.
const std::vector<Sequence> kSequences = {{0, {75, 140}, {75, 140}},   {0, {0, 70}, {0, 70}},
                                          {0, {70, 70}, {74, 74}},     {0, {140, 141}, {140, 141}},
                                          {1, {100, 1300}, {0, 1300}}, {0, {150, 180}, {141, 1303}}};
constexpr Index kTokens = 1303, kDim = 24, kHeads = 2;

template <class T>
Tensor<T> part_of_tensor(const Tensor<T>& from, Index batch, Range tokens) {
  Tensor<T> to(1, from.heads, tokens.size(), from.dim);
  to.for_each([&](T& x, Index, Index h, Index t, Index c) { x = from.row(batch, h, tokens.begin + t)[c]; });
  return to;
}

// Where each sequence's nodes are, by the rule that the interface states.
std::vector<Range> node_ranges(Index block) {
  std::vector<Index> ends(2);
  std::vector<Range> ranges;
  for (const Sequence& s : kSequences) {
    const Index begin = ends[s.batch];
    ranges.push_back({begin, ends[s.batch] += pooled_nodes(s.keys.size(), block)});
  }
  return ranges;
}

template <class T>
Tensor<T> tensor_with_poison(Index heads, std::uint64_t seed) {
  auto x = normal_tensor<T>(2, heads, kTokens, kDim, seed);
  x.for_each([](T& e, Index b, Index, Index t, Index) {
    if (b == 0 ? t >= 70 && t < 75 : t >= 1300) e = static_cast<T>(kNan);
  });
  return x;
}

template <class T>
void expect_pooled_alone(Pooler pooler, Index block, Executor& executor) {
  using N = LseOf<T>;
  const auto k = tensor_with_poison<T>(kHeads, 1), v = tensor_with_poison<T>(kHeads, 2);
  const auto parameters = testing::random_parameters<N>(pooler, kDim, 0.3, 3);
  const std::vector<Range> ranges = node_ranges(block);
  const Index room = most_pooled_nodes(kTokens, block, std::ssize(kSequences));
  const Tensor<N> none(2, kHeads, room, kDim);
  NodeTensors<N> nodes{none, none};
  const PoolerInputs in = testing::pooler_inputs(pooler, block, k, v, parameters);
  pool_forward(in, kSequences, {nodes.k.view(), nodes.v.view()}, executor);

  auto dnodes = NodeTensors<N>{normal_tensor<N>(2, kHeads, room, kDim, 4), normal_tensor<N>(2, kHeads, room, kDim, 5)};
  const Index last = ranges.back().end, last_of_second = ranges[4].end;
  for (Tensor<N>* x : {&dnodes.k, &dnodes.v}) {  // what lies behind the last node
    x->for_each([&](N& e, Index b, Index, Index t, Index) {
      if (t >= (b == 0 ? last : last_of_second)) e = static_cast<N>(kNan);
    });
  }
  const Tensor<T> like(2, kHeads, kTokens, kDim);
  testing::PoolerSolution<T> found{like, like, std::vector<N>(parameters.size(), static_cast<N>(kNan))};
  pool_backward(in, kSequences, dnodes.views(), {found.dk.view(), found.dv.view(), found.dparameters.data()}, executor);

  std::vector<double> sum(parameters.size());
  for (std::size_t i = 0; i < kSequences.size(); ++i) {
    SCOPED_TRACE(concat("sequence ", i));
    const auto [batch, keys, range] = std::tuple{kSequences[i].batch, kSequences[i].keys, ranges[i]};
    const auto own_k = part_of_tensor(k, batch, keys), own_v = part_of_tensor(v, batch, keys);
    const auto right = pooled(pooler, block, own_k, own_v, parameters);
    EXPECT_TRUE(same_bits(part_of_tensor(nodes.k, batch, range), right.k));
    EXPECT_TRUE(same_bits(part_of_tensor(nodes.v, batch, range), right.v));
    const NodeTensors<N> own_dnodes{part_of_tensor(dnodes.k, batch, range), part_of_tensor(dnodes.v, batch, range)};
    const auto gradients = testing::pooled_backward(pooler, block, own_k, own_v, parameters, own_dnodes);
    EXPECT_TRUE(same_bits(part_of_tensor(found.dk, batch, keys), gradients.dk));
    EXPECT_TRUE(same_bits(part_of_tensor(found.dv, batch, keys), gradients.dv));
    for (std::size_t p = 0; p < sum.size(); ++p) sum[p] += gradients.dparameters[p];
  }
  for (std::size_t p = 0; p < sum.size(); ++p) ASSERT_EQ(found.dparameters[p], static_cast<N>(sum[p])) << p;
  nodes.k.for_each(
      [&](const N& x, Index b, Index, Index t, Index) { ASSERT_TRUE(t < (b == 0 ? last : last_of_second) || x == 0); });
  found.dk.for_each([&](const T& x, Index b, Index, Index t, Index) {
    const bool used = b == 0 ? t < 70 || t >= 75 : t < 1300;
    ASSERT_TRUE(used || static_cast<float>(x) == 0);
  });
}

TEST(PooledSequences, EachIsPooledAsIfItWereAlone) {
  const auto pool = make_thread_pool(3);
  for (const Pooler pooler : kPoolers) {
    for (const Index block : {8, 1}) {
      for (Executor* executor : {&serial_executor(), pool.get()}) {
        SCOPED_TRACE(concat(name_of(pooler), ", block ", block));
        expect_pooled_alone<float>(pooler, block, *executor);
        expect_pooled_alone<BFloat16>(pooler, block, *executor);
        if (block == 8) expect_pooled_alone<double>(pooler, block, *executor);
      }
    }
  }
}

TEST(PooledSequences, TheRoomThatIsPromisedIsEnough) {
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    const Index block = Index{1} << testing::uniform(random, 0, 6), count = testing::uniform(random, 1, 6);
    Index keys = 0, nodes = 0;
    for (Index s = 0; s < count; ++s) {
      const Index own = testing::one_of<Index>(random, {0, 1, block, block + 1, testing::uniform(random, 0, 700)});
      keys += own;
      nodes += pooled_nodes(own, block);
    }
    ASSERT_LE(nodes, most_pooled_nodes(keys, block, count)) << keys << " keys, block " << block << ", " << count;
    ASSERT_LE(most_pooled_nodes(keys, block, 1), pooled_nodes(keys, block) + 8 + 64 / block) << "not much more";
  }
}

struct Attended {
  Tensor<float> o, dq, dk, dv;
  std::vector<float> lse;
  NodeTensors<float> dnodes;
  std::vector<std::int32_t> lists;
};

Attended attend(const Problem& p, const Tensors<float>& in, const NodeTensors<float>& nodes, Executor& executor) {
  Attended a;
  a.o = a.dq = Tensor<float>(2, p.heads, kTokens, kDim);
  a.dk = a.dv = Tensor<float>(2, p.kv_heads, kTokens, kDim);
  a.lse.resize(static_cast<std::size_t>(2 * p.heads * kTokens));
  a.dnodes.k = a.dnodes.v = Tensor<float>(2, p.kv_heads, nodes.k.tokens, kDim);
  AttentionInputs inputs = in.inputs(p);
  inputs.pooled = nodes.views();
  const std::vector<PlanShape> shapes = plan_shapes(p.options, DType::kFloat32, p.kv_heads, kSequences);
  a.lists.resize(static_cast<std::size_t>(list_elements(shapes)));
  attention_forward(inputs, kSequences, p.options, {a.o.view(), a.lse.data()}, a.lists.data(), executor);
  AttentionGradients grads{a.dq.view(), a.dk.view(), a.dv.view()};
  if (p.options.hsa.far_field) grads.dpooled = Nodes{a.dnodes.k.view(), a.dnodes.v.view()};
  attention_backward(inputs, kSequences, plans_of(shapes, a.lists.data()),
                     {in.dout.view(), as_const(a.o.view()), a.lse.data()}, grads, executor);

  std::vector<std::int32_t> again(a.lists.size());
  make_plans_into(inputs.q, inputs.k, kSequences, p.options, {}, again.data(), executor, nodes.views().k);
  EXPECT_EQ(again, a.lists);
  Tensor<float> o(2, p.heads, kTokens, kDim);
  attention_forward(inputs, kSequences, plans_of(shapes, again.data()), {o.view()}, executor);
  EXPECT_TRUE(same_bits(o, a.o));
  return a;
}

void expect_attended_alone(const Problem& p, Executor& executor) {
  Random random(17);
  Problem whole = p;
  whole.batch = 2, whole.queries = whole.keys = kTokens, whole.dim = kDim;
  Tensors<float> in = random_tensors(whole, 1);
  for (Tensor<float>* x : {&in.k, &in.v}) {
    x->for_each([](float& e, Index b, Index, Index t, Index) {
      if (b == 0 ? t >= 70 && t < 75 : t >= 1300) e = kNan;
    });
  }
  const Index block = plan_shape(p.options, DType::kFloat32, 1, 1, 1, kTokens).block;
  const Tensor<float> none(2, p.kv_heads, most_pooled_nodes(kTokens, block, std::ssize(kSequences)), kDim);
  NodeTensors<float> nodes{none, none};
  const auto parameters = testing::random_parameters<float>(Pooler::kAttention, kDim, 0.3, 3);
  pool_forward(testing::pooler_inputs(Pooler::kAttention, block, in.k, in.v, parameters), kSequences,
               {nodes.k.view(), nodes.v.view()});
  const std::vector<Range> ranges = node_ranges(block);
  for (Tensor<float>* x : {&nodes.k, &nodes.v}) {
    x->for_each([&](float& e, Index b, Index, Index t, Index) {
      if (t >= (b == 0 ? ranges.back().end : ranges[4].end)) e = kNan;
    });
  }
  const Attended found = attend(p, in, nodes, executor);
  for (std::size_t i = 0; i < kSequences.size(); ++i) {
    const Sequence& s = kSequences[i];
    SCOPED_TRACE(concat("sequence ", i));
    Problem alone = p;
    alone.queries = s.queries.size(), alone.keys = s.keys.size(), alone.dim = kDim;
    const auto queries = [&](const Tensor<float>& x) { return part_of_tensor(x, s.batch, s.queries); };
    const auto keys = [&](const Tensor<float>& x) { return part_of_tensor(x, s.batch, s.keys); };
    const auto own = [&](const Tensor<float>& x) { return part_of_tensor(x, s.batch, ranges[i]); };
    const Tensors<float> part{queries(in.q), keys(in.k), keys(in.v), queries(in.dout)};
    const PooledResult<float> right = solve_pooled(alone, part, {own(nodes.k), own(nodes.v)});
    EXPECT_TRUE(same_bits(queries(found.o), right.solution.o));
    EXPECT_TRUE(same_bits(queries(found.dq), right.solution.dq));
    EXPECT_TRUE(same_bits(keys(found.dk), right.solution.dk));
    EXPECT_TRUE(same_bits(keys(found.dv), right.solution.dv));
    if (!p.options.hsa.far_field) continue;
    EXPECT_TRUE(same_bits(own(found.dnodes.k), right.dnodes.k));
    EXPECT_TRUE(same_bits(own(found.dnodes.v), right.dnodes.v));
  }
  if (!p.options.hsa.far_field) return;
  found.dnodes.v.for_each([&](const float& x, Index b, Index, Index t, Index) {
    ASSERT_TRUE(t < (b == 0 ? ranges.back().end : ranges[4].end) || x == 0);
  });
}

TEST(PooledSequences, EachAttendsItsNodesAsIfItWereAlone) {
  const auto pool = make_thread_pool(3);
  Random random(4);
  for (int i = 0; i < 6; ++i) {
    Problem p{.name = "sequences", .heads = i % 2 == 0 ? 2 : 3, .kv_heads = i % 2 == 0 ? 2 : 1};
    p.options = testing::searching_options(random, i % 3 > 0);
    p.options.hsa.far_field = i < 4;
    p.options.hsa.node = 0;
    p.options.hsa.parts = 1;
    SCOPED_TRACE(describe(p));
    expect_attended_alone(p, serial_executor());
    expect_attended_alone(p, *pool);
  }
}

}  // namespace
}  // namespace hsattn
