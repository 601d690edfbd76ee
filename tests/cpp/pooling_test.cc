// Poolers with parameters by themselves: exact, without leaks, the same bits on any threads, the mean at the start.
#include "support/pooling.h"

#include <gtest/gtest.h>

#include <functional>
#include <optional>

#include "hsattn/base/math.h"
#include "hsattn/kernels/pool.h"
#include "support/plain_pooling.h"

namespace hsattn {
namespace {

using testing::kPoolers;
using testing::Layout;
using testing::NodeTensors;
using testing::normal_tensor;
using testing::pooled;
using testing::pooled_backward;
using testing::PoolerSolution;
using testing::random_parameters;
using testing::Tensor;

struct Case {
  const char* name;
  Index batch, heads, keys, dim, block;
  Layout layout = Layout::kContiguous;
};

constexpr Case kCases[] = {
    {"one token", 1, 1, 1, 64, 8},
    {"less than a block", 1, 1, 5, 24, 8},
    {"one block", 1, 2, 8, 64, 8},
    {"ragged block", 2, 2, 43, 24, 8, Layout::kPadded},
    {"blocks of one token", 1, 1, 13, 16, 1},
    {"blocks of two", 1, 1, 21, 16, 2},
    {"large blocks, odd head", 1, 1, 150, 37, 64},
    {"smallest head", 1, 1, 77, 8, 4},
    {"largest head", 1, 1, 70, 256, 8},
    {"projection layout", 2, 3, 100, 80, 8, Layout::kTokenMajor},
    {"exact chunk", 1, 1, 1024, 16, 8},
    {"several chunks", 1, 2, 2300, 24, 8},
    {"a token in the second chunk", 1, 1, 1025, 8, 64},
};

// Nodes are means of few tokens, so errors stay below a floor: 1e-5 of the largest result (at least of 1), and the
// rounding of gradients that are stored in half precision. The paper's form is held to half of the floor and twice
// the error of plain float32, `plain`, if it is given.
template <class T>
void expect_close(const char* what, const Tensor<T>& found, const Tensor<double>& exact,
                  const Tensor<float>* plain = nullptr) {
  const double floor = 1e-5 * std::max(1.0, largest_of(exact));
  const double rounding = std::is_same_v<T, float> ? 0 : testing::rounding_floor(largest_of(exact));
  const double allowed = plain == nullptr ? floor : floor / 2 + 2 * max_error(*plain, exact);
  EXPECT_LE(max_error(found, exact), allowed + rounding) << what;
  EXPECT_TRUE(padding_is_untouched(found)) << what;
}

// What plain float32 gives, of the paper's form alone.
struct Plain {
  std::optional<Tensor<float>> k, v, dk, dv, dparameters;

  Plain(const Case& c, Pooler pooler, const Tensor<float>& keys, const Tensor<float>& values,
        const std::vector<float>& parameters, const NodeTensors<float>& dnodes) {
    if (pooler != Pooler::kAttentionPaper) return;
    k = testing::plain_paper_nodes(c.block, keys, parameters);
    v = testing::plain_paper_nodes(c.block, values, parameters);
    const auto of_keys = testing::plain_paper_backward(c.block, keys, parameters, dnodes.k);
    const auto of_values = testing::plain_paper_backward(c.block, values, parameters, dnodes.v);
    dk = of_keys.dx, dv = of_values.dx;
    dparameters = row_of(parameters);
    for (std::size_t i = 0; i < parameters.size(); ++i)
      dparameters->data[i] = of_keys.dparameters[i] + of_values.dparameters[i];
  }

  template <class N>
  static Tensor<N> row_of(const std::vector<N>& numbers) {
    Tensor<N> row(1, 1, 1, std::ssize(numbers));
    row.data = numbers;
    return row;
  }
};

template <class T>
void expect_as_exact_as_the_reference(const Case& c, Pooler pooler, double deviation) {
  const auto k = normal_tensor<T>(c.batch, c.heads, c.keys, c.dim, 1, c.layout);
  const auto v = normal_tensor<T>(c.batch, c.heads, c.keys, c.dim, 2, c.layout);
  const auto parameters = random_parameters<float>(pooler, c.dim, deviation, 3);
  const std::vector<double> in_double(parameters.begin(), parameters.end());
  const Index nodes = pooled_nodes(c.keys, c.block);
  const NodeTensors<float> dnodes{normal_tensor<float>(c.batch, c.heads, nodes, c.dim, 4, c.layout),
                                  normal_tensor<float>(c.batch, c.heads, nodes, c.dim, 5, c.layout)};
  const Plain plain(c, pooler, testing::converted<float>(k), testing::converted<float>(v), parameters, dnodes);
  const auto given = [](const std::optional<Tensor<float>>& x) { return x ? &*x : nullptr; };

  const auto k_double = testing::converted<double>(k), v_double = testing::converted<double>(v);
  const auto found = pooled(pooler, c.block, k, v, parameters, serial_executor(), c.layout);
  const auto exact = pooled(pooler, c.block, k_double, v_double, in_double);
  expect_close("keys of nodes", found.k, exact.k, given(plain.k));
  expect_close("values of nodes", found.v, exact.v, given(plain.v));

  const NodeTensors<double> dnodes_double{testing::converted<double>(dnodes.k), testing::converted<double>(dnodes.v)};
  const auto gradients = pooled_backward(pooler, c.block, k, v, parameters, dnodes, serial_executor(), c.layout);
  const auto right = pooled_backward(pooler, c.block, k_double, v_double, in_double, dnodes_double);
  expect_close("dk", gradients.dk, right.dk, given(plain.dk));
  expect_close("dv", gradients.dv, right.dv, given(plain.dv));
  expect_close("parameters", Plain::row_of(gradients.dparameters), Plain::row_of(right.dparameters),
               given(plain.dparameters));
}

TEST(Pooling, AsExactAsTheReference) {
  for (const Case& c : kCases) {
    for (const Pooler pooler : kPoolers) {
      for (const double deviation : {0.0, 0.3}) {
        SCOPED_TRACE(concat(c.name, ", ", name_of(pooler), ", parameters ", deviation, " off"));
        with_element_type(testing::stored_type(), [&](auto element) {
          using Stored = decltype(element);
          if constexpr (!std::is_same_v<Stored, double>) {
            expect_as_exact_as_the_reference<Stored>(c, pooler, deviation);
          }
        });
      }
    }
  }
}

// The loss: a sum of all nodes with random weights.
double loss_of(Pooler pooler, Index block, const Tensor<double>& k, const Tensor<double>& v,
               const std::vector<double>& parameters, const NodeTensors<double>& weights) {
  const auto nodes = pooled(pooler, block, k, v, parameters);
  double loss = 0;
  for (const auto& [node, weight] : {std::pair{&nodes.k, &weights.k}, {&nodes.v, &weights.v}}) {
    node->for_each(
        [&, w = weight](const double& x, Index b, Index h, Index t, Index c) { loss += x * w->row(b, h, t)[c]; });
  }
  return loss;
}

TEST(Pooling, ReferenceGradientsAreSlopes) {
  constexpr double kStep = 1e-6, kAllowed = 1e-7;
  for (const auto& [keys, block] : {std::pair<Index, Index>{13, 4}, {9, 8}, {5, 1}, {16, 2}}) {
    for (const Pooler pooler : kPoolers) {
      SCOPED_TRACE(concat(name_of(pooler), ", keys ", keys, ", block ", block));
      auto k = normal_tensor<double>(1, 2, keys, 8, 1), v = normal_tensor<double>(1, 2, keys, 8, 2);
      auto parameters = random_parameters<double>(pooler, 8, 0.3, 3);
      const Index nodes = pooled_nodes(keys, block);
      const NodeTensors<double> weights{normal_tensor<double>(1, 2, nodes, 8, 4),
                                        normal_tensor<double>(1, 2, nodes, 8, 5)};
      const auto gradients = pooled_backward(pooler, block, k, v, parameters, weights);
      const auto slope = [&](double& x) {
        const double before = x;
        x = before + kStep;
        const double up = loss_of(pooler, block, k, v, parameters, weights);
        x = before - kStep;
        const double down = loss_of(pooler, block, k, v, parameters, weights);
        x = before;
        return (up - down) / (2 * kStep);
      };
      k.for_each([&](double& x, Index b, Index h, Index t, Index c) {
        EXPECT_NEAR(gradients.dk.row(b, h, t)[c], slope(x), kAllowed) << "k";
      });
      v.for_each([&](double& x, Index b, Index h, Index t, Index c) {
        EXPECT_NEAR(gradients.dv.row(b, h, t)[c], slope(x), kAllowed) << "v";
      });
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        EXPECT_NEAR(gradients.dparameters[i], slope(parameters[i]), 10 * kAllowed) << "parameter " << i;
      }
    }
  }
}

TEST(Pooling, StartsAsTheMean) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const auto k = normal_tensor<float>(1, 1, c.keys, c.dim, 1), v = normal_tensor<float>(1, 1, c.keys, c.dim, 2);
    Tensor<float> mean(1, 1, pooled_nodes(c.keys, c.block), c.dim);
    for (const Pooler pooler : {Pooler::kAttention, Pooler::kLearnable}) {
      SCOPED_TRACE(name_of(pooler));
      const auto nodes = pooled(pooler, c.block, k, v, random_parameters<float>(pooler, c.dim, 0, 3));
      pool(Pooling::kMean, {k.data.data(), c.keys, c.dim, c.dim}, c.block, c.dim, mean.data.data());
      EXPECT_LE(max_error(nodes.k, mean), 1e-6);
      pool(Pooling::kMean, {v.data.data(), c.keys, c.dim, c.dim}, c.block, c.dim, mean.data.data());
      EXPECT_LE(max_error(nodes.v, mean), 1e-6);
      const auto moved = pooled(pooler, c.block, k, v, random_parameters<float>(pooler, c.dim, 0.3, 3));
      if (c.keys > 1 && c.block > 1) {
        EXPECT_GT(max_error(moved.v, mean), 1e-3);
      }
    }
  }
}

// Nodes of the whole that stand for tokens before `end` alone.
template <class Visit>
void for_each_complete_node(Index keys, Index block, Index end, const Visit& visit) {
  Index at = 0;
  for (int level = 0; level < pyramid_levels(ceil_div(keys, block)); ++level) {
    const Index size = block << level, count = ceil_div(keys, size);
    for (Index i = 0; i < count; ++i) visit(level, i, at + i, (i + 1) * size <= end);
    at += count;
  }
}

// Index of node (level, i) of a shorter sequence, or -1 if it is not complete there.
Index node_in_prefix(Index keys, Index block, int level, Index i) {
  Index found = -1;
  for_each_complete_node(keys, block, keys, [&](int l, Index j, Index at, bool complete) {
    if (l == level && j == i && complete) found = at;
  });
  return found;
}

TEST(Pooling, NodesOfAPrefixAreThoseOfTheWhole) {
  for (const auto& [keys, block] : {std::pair<Index, Index>{200, 8}, {2300, 8}, {70, 1}}) {
    const auto k = normal_tensor<float>(1, 2, keys, 24, 1), v = normal_tensor<float>(1, 2, keys, 24, 2);
    for (const Pooler pooler : kPoolers) {
      const auto parameters = random_parameters<float>(pooler, 24, 0.3, 3);
      const auto whole = pooled(pooler, block, k, v, parameters);
      for (const Index cut : {Index{1}, Index{37}, keys / 2 + 1, keys - 1}) {
        SCOPED_TRACE(concat(name_of(pooler), ", ", cut, " of ", keys, " tokens, block ", block));
        const auto part = pooled(pooler, block, tokens_of(k, 0, cut), tokens_of(v, 0, cut), parameters);
        Index same = 0;
        for_each_complete_node(keys, block, cut, [&](int level, Index i, Index at, bool complete) {
          const Index there = complete ? node_in_prefix(cut, block, level, i) : -1;
          if (there < 0) return;
          for (Index h = 0; h < 2; ++h) {
            ASSERT_TRUE(testing::same_bits(whole.k.row(0, h, at), part.k.row(0, h, there), 24));
            ASSERT_TRUE(testing::same_bits(whole.v.row(0, h, at), part.v.row(0, h, there), 24));
          }
          ++same;
        });
        EXPECT_GE(same, cut / block);
      }
    }
  }
}

// Other tokens from `cut` on, NaN among them: no bit of a node before, nor of the gradients of a loss on such nodes,
// moves; and no gradient reaches the later tokens. The last node that holds token `cut` does move.
TEST(Pooling, WhatComesLaterMovesNothing) {
  constexpr Index kBlock = 8, kDim = 24;
  for (const Index keys : {Index{200}, Index{2300}}) {
    for (const Pooler pooler : kPoolers) {
      for (const Index cut : {Index{8}, Index{37}, keys - 9}) {
        SCOPED_TRACE(concat(name_of(pooler), ", from ", cut, " of ", keys, " tokens"));
        const auto k = normal_tensor<float>(1, 1, keys, kDim, 1), v = normal_tensor<float>(1, 1, keys, kDim, 2);
        const auto parameters = random_parameters<float>(pooler, kDim, 0.3, 3);
        Tensor<float> other_k = k, other_v = v;
        for (Tensor<float>* x : {&other_k, &other_v}) {
          x->for_each([&](float& e, Index, Index, Index t, Index c) {
            if (t >= cut) e = c == 3 ? std::numeric_limits<float>::quiet_NaN() : 5 * e;
          });
        }
        const Index nodes = pooled_nodes(keys, kBlock);
        NodeTensors<float> dnodes{normal_tensor<float>(1, 1, nodes, kDim, 4),
                                  normal_tensor<float>(1, 1, nodes, kDim, 5)};
        const auto a = pooled(pooler, kBlock, k, v, parameters),
                   b = pooled(pooler, kBlock, other_k, other_v, parameters);
        Index moved = 0, kept = 0;
        for_each_complete_node(keys, kBlock, cut, [&](int, Index, Index at, bool complete) {
          const bool same = testing::same_bits(a.k.row(0, 0, at), b.k.row(0, 0, at), kDim) &&
                            testing::same_bits(a.v.row(0, 0, at), b.v.row(0, 0, at), kDim);
          EXPECT_TRUE(same || !complete) << "node " << at;
          kept += complete;
          moved += !same;
          if (complete) return;
          std::fill_n(dnodes.k.row(0, 0, at), kDim, 0.0F);
          std::fill_n(dnodes.v.row(0, 0, at), kDim, 0.0F);
        });
        EXPECT_GT(kept, 0);
        EXPECT_EQ(moved, nodes - kept);
        const auto before = pooled_backward(pooler, kBlock, k, v, parameters, dnodes);
        const auto after = pooled_backward(pooler, kBlock, other_k, other_v, parameters, dnodes);
        EXPECT_TRUE(same_bits(before.dk, after.dk));
        EXPECT_TRUE(same_bits(before.dv, after.dv));
        EXPECT_EQ(before.dparameters, after.dparameters);
        EXPECT_EQ(largest_of(tokens_of(before.dk, cut, keys)), 0);
        EXPECT_GT(largest_of(tokens_of(before.dk, 0, cut)), 0);
      }
    }
  }
}

TEST(Pooling, TheBitsDoNotDependOnThreads) {
  constexpr Index kKeys = 5000, kDim = 24;
  const auto k = normal_tensor<float>(2, 2, kKeys, kDim, 1), v = normal_tensor<float>(2, 2, kKeys, kDim, 2);
  const Index nodes = pooled_nodes(kKeys, 8);
  const NodeTensors<float> dnodes{normal_tensor<float>(2, 2, nodes, kDim, 4),
                                  normal_tensor<float>(2, 2, nodes, kDim, 5)};
  for (const Pooler pooler : kPoolers) {
    SCOPED_TRACE(name_of(pooler));
    const auto parameters = random_parameters<float>(pooler, kDim, 0.3, 3);
    const auto right = pooled(pooler, 8, k, v, parameters);
    const auto gradients = pooled_backward(pooler, 8, k, v, parameters, dnodes);
    for (const int threads : {2, 5}) {
      const auto pool = make_thread_pool(threads);
      for (int repeat = 0; repeat < 3; ++repeat) {
        const auto found = pooled(pooler, 8, k, v, parameters, *pool);
        EXPECT_TRUE(same_bits(found.k, right.k) && same_bits(found.v, right.v));
        const auto again = pooled_backward(pooler, 8, k, v, parameters, dnodes, *pool);
        EXPECT_TRUE(same_bits(again.dk, gradients.dk) && same_bits(again.dv, gradients.dv));
        EXPECT_EQ(again.dparameters, gradients.dparameters);
      }
    }
  }
}

TEST(Pooling, NoTokens) {
  for (const Pooler pooler : kPoolers) {
    const Tensor<float> none(1, 1, 0, 8);
    const auto parameters = random_parameters<float>(pooler, 8, 0.3, 3);
    EXPECT_EQ(pooled(pooler, 8, none, none, parameters).k.tokens, 0);
    const auto gradients = pooled_backward(pooler, 8, none, none, parameters, {none, none});
    EXPECT_EQ(gradients.dparameters, std::vector<float>(parameters.size(), 0.0F));
  }
}

TEST(Pooling, WrongCallsAreRefused) {
  const auto k = normal_tensor<float>(1, 2, 20, 8, 1);
  Tensor<float> node_memory(1, 2, 6, 8), other_memory = node_memory;
  std::vector<float> parameters(8), dparameters(8);
  const PoolerInputs right{Pooler::kAttention, 8, k.view(), k.view(), parameters.data()};
  const auto error_of = [&](const std::function<void(PoolerInputs&, Nodes&)>& spoil) {
    PoolerInputs in = right;
    Nodes out{node_memory.view(), other_memory.view()};
    try {
      spoil(in, out);
      pool_forward(in, out);
    } catch (const InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string("no InvalidArgument");
  };
  EXPECT_EQ(error_of([](PoolerInputs&, Nodes&) {}), "no InvalidArgument");
  EXPECT_EQ(error_of([](PoolerInputs&, Nodes&) { pooled_nodes(10, 0); }),
            "pooled_nodes: block is 0; it must be from 1 to 64");
  EXPECT_EQ(error_of([](PoolerInputs&, Nodes&) { most_pooled_nodes(-1, 8, 2); }),
            "most_pooled_nodes: keys is -1; it must be from 0 to 2^40");
  EXPECT_EQ(error_of([](PoolerInputs& in, Nodes&) { in.block = 12; }),
            "pool_forward: block is 12; it must be a power of two from 1 to 64");
  EXPECT_EQ(error_of([](PoolerInputs& in, Nodes&) { in.v.tokens = 19; }),
            "pool_forward: v has shape [1, 2, 19, 8], k has [1, 2, 20, 8]; they must be equal");
  EXPECT_EQ(error_of([](PoolerInputs& in, Nodes&) { in.parameters = nullptr; }),
            "pool_forward: parameters has no memory; there are 1 rows of 8");
  EXPECT_EQ(error_of([](PoolerInputs&, Nodes& out) { out.v.tokens = 5; }),
            "pool_forward: pooled v has shape [1, 2, 5, 8], the pyramid of k has [1, 2, 6, 8]; they must be equal");
  EXPECT_EQ(error_of([](PoolerInputs&, Nodes& out) { out.k.dtype = DType::kBFloat16; }),
            "pool_forward: pooled k is bfloat16, the pyramid of k is float32; they must be equal");
  EXPECT_EQ(error_of([&](PoolerInputs&, Nodes& out) { out.v = out.k; }),
            "pool_forward: pooled v shares memory with pooled k; it must lie apart");
  EXPECT_EQ(error_of([&](PoolerInputs&, Nodes& out) { out.k.token_stride = 0; }),
            "pool_forward: pooled k has strides 96, 48, 0 for dimension 8; its elements must lie apart");
  EXPECT_THROW(pooler_from_name("mean"), InvalidArgument);
  for (const Pooler pooler : kPoolers) EXPECT_EQ(pooler_from_name(name_of(pooler)), pooler);
}

}  // namespace
}  // namespace hsattn
