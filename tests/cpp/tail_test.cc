// The tail: what rescoring rejects is attended as mean values, as the reference has it, by the promises of all else.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Tensor;
using testing::Tensors;

// What a pass without a given plan leaves.
template <class T>
struct Pass {
  Tensor<T> o;
  std::vector<testing::LseOf<T>> lse;
  std::vector<std::int32_t> lists;
};

template <class T>
Pass<T> pass_of(const Problem& p, const Tensors<T>& in, Executor& executor = serial_executor()) {
  Pass<T> out{Tensor<T>(p.batch, p.heads, p.queries, p.dim), {}, {}};
  out.lse.resize(static_cast<std::size_t>(p.batch * p.heads * p.queries));
  const PlanShape shape = plan_shape(p.options, DType::kFloat32, p.batch, p.kv_heads, p.queries, p.keys);
  out.lists.resize(static_cast<std::size_t>(shape.list_elements()));
  attention_forward(in.inputs(p), p.options, {out.o.view(), out.lse.data()}, out.lists.data(), executor);
  return out;
}

struct Case {
  const char* name;
  Index heads, kv_heads, queries, keys, dim, block, node, candidates;
  bool causal = true;
  double mass = 0, tail = 0.5;
  Index parts = 1;
};

constexpr Case kCases[] = {
    {"whole blocks", 1, 1, 200, 200, 64, 8, 0, 64},
    {"group of 3, pairs", 3, 1, 210, 301, 24, 2, 8, 96},
    {"group of 8, tokens", 8, 1, 100, 300, 64, 1, 8, 4096},
    {"two kv heads, blocks of 4", 6, 2, 150, 333, 80, 4, 4, 64},
    {"pairs of nodes of 4", 3, 1, 150, 333, 24, 2, 4, 64},
    {"nodes of 32, all of the tail", 1, 1, 150, 600, 24, 8, 32, 128, true, 0, 1},
    {"blocks of 64", 1, 1, 150, 900, 24, 64, 0, 512},
    {"both sides, ragged", 3, 1, 140, 301, 24, 2, 8, 96, false},
    {"mass", 3, 1, 150, 300, 64, 2, 8, 128, true, 0.5},
    {"one query", 3, 1, 1, 700, 64, 2, 8, 256},
    {"halves of nodes", 3, 1, 210, 301, 24, 2, 8, 96, true, 0, 0.5, 2},
    {"halves of blocks of 8, one head", 1, 1, 210, 301, 24, 8, 0, 96, true, 0, 0.5, 2},
    {"pairs of nodes of 4", 8, 1, 100, 333, 64, 1, 4, 128, true, 0, 0.5, 2},
    {"nodes of 32 in 8, both sides, ragged", 3, 1, 150, 603, 24, 8, 32, 192, false, 0, 1, 4},
    {"nodes of 64 in 16", 1, 1, 150, 903, 24, 8, 64, 256, true, 0, 0.5, 4},
    {"tokens of nodes of 8, both sides", 3, 1, 140, 301, 24, 2, 8, 96, false, 0, 0.5, 8},
};

Problem problem_of(const Case& c) {
  Problem p{.name = c.name,
            .batch = 2,
            .heads = c.heads,
            .kv_heads = c.kv_heads,
            .queries = c.queries,
            .keys = c.keys,
            .dim = c.dim};
  p.options = {Pattern::kHsa, c.causal, {}};
  p.options.hsa = {.window = 8,
                   .top_k = 32,
                   .candidates = c.candidates,
                   .block = c.block,
                   .sinks = 4,
                   .top_nodes = 16,
                   .dense_until = 0,
                   .mass = c.mass,
                   .min_top_k = 8,
                   .node = c.node,
                   .tail = c.tail,
                   .parts = c.parts};
  return p;
}

// Errors of the rows whose lists are equal, of o and of lse; a near-tie may tell lists apart.
template <class T>
void expect_as_the_reference(const Problem& p, const Pass<T>& found, const Pass<double>& right) {
  const Index slots = std::ssize(right.lists) / (p.batch * p.kv_heads * p.queries);
  Index equal = 0;
  double error = 0, lse_error = 0, largest = 0;
  for (Index row = 0; row < p.batch * p.heads * p.queries; ++row) {
    const Index i = row % p.queries, h = row / p.queries % p.heads, b = row / p.queries / p.heads;
    const Index list = ((b * p.kv_heads + h / p.group()) * p.queries + i) * slots;
    if (!std::equal(found.lists.begin() + list, found.lists.begin() + list + slots, right.lists.begin() + list))
      continue;
    ++equal;
    lse_error = std::max(lse_error, std::abs(static_cast<double>(found.lse[row]) - right.lse[row]));
    for (Index c = 0; c < p.dim; ++c) {
      const double o = right.o.row(b, h, i)[c];
      largest = std::max(largest, std::abs(o));
      error = std::max(error, std::abs(static_cast<double>(static_cast<float>(found.o.row(b, h, i)[c])) - o));
    }
  }
  const bool half = testing::stored_type() != DType::kFloat32;
  EXPECT_GE(static_cast<double>(equal), 0.9 * static_cast<double>(p.batch * p.heads * p.queries));
  EXPECT_LE(error, (half ? 4 : 2) * testing::rounding_floor(largest));
  EXPECT_LE(lse_error, 2e-5);
}

TEST(Tail, IsTheReferences) {
  for (const Case& c : kCases) {
    const Problem p = problem_of(c);
    SCOPED_TRACE(describe(p));
    testing::with_stored_tensors(p, 4, [&]<class T>(const Tensors<T>& in) {
      const auto exact = [](const Tensor<T>& x) { return testing::converted<double>(x); };
      const Tensors<double> in_double{exact(in.q), exact(in.k), exact(in.v), exact(in.dout)};
      const Pass<double> right = pass_of(p, in_double);
      expect_as_the_reference(p, pass_of(p, in), right);
      Problem without = p;
      without.options.hsa.tail = 0;
      EXPECT_GT(max_error(pass_of(without, in_double).o, right.o), 1e-3) << "the tail makes no difference";
    });
  }
}

// With every token a candidate, all of the tail makes the softmax denominator that of full attention, but for scores of
// vectors rounded to bytes.
TEST(Tail, HoldsAllThatIsNotKept) {
  for (const Index group : {1, 3}) {
    Problem p{.name = "all", .heads = group, .queries = 100, .keys = 400, .dim = 64};
    p.options.hsa = {.window = 8, .top_k = 32, .block = 2, .sinks = 4, .dense_until = 0, .node = 8};
    const Tensors<float> in = random_tensors(p, 6);
    Problem full = p, tail = p;
    full.options.pattern = Pattern::kFull;
    tail.options.hsa.tail = 1;
    const auto right = pass_of(full, in).lse, found = pass_of(tail, in).lse, without = pass_of(p, in).lse;
    for (std::size_t i = 0; i < right.size(); ++i) {
      EXPECT_NEAR(found[i], right[i], 0.01);
      EXPECT_GT(right[i] - without[i], 0.1);
    }
  }
}

TEST(Tail, IsNothingWhereAllIsKept) {
  Problem p{.name = "all kept", .heads = 3, .queries = 200, .keys = 200, .dim = 24};
  p.options.hsa = {.window = 8, .top_k = 256, .block = 2, .sinks = 4, .dense_until = 0, .node = 8};
  const Tensors<float> in = random_tensors(p, 6);
  Problem tail = p;
  tail.options.hsa.tail = 0.5;
  EXPECT_TRUE(same_bits(pass_of(tail, in).o, pass_of(p, in).o));
}

TEST(Tail, NoThreadAndNoFutureTokenMovesABit) {
  for (const Case& c : kCases) {
    const Problem p = problem_of(c);
    SCOPED_TRACE(describe(p));
    testing::with_stored_tensors(p, 4, [&]<class T>(const Tensors<T>& in) {
      const auto pool = make_thread_pool(3);
      const Pass<T> right = pass_of(p, in), threaded = pass_of(p, in, *pool);
      EXPECT_TRUE(same_bits(threaded.o, right.o));
      EXPECT_EQ(threaded.lse, right.lse);
      if (!p.options.causal || p.queries == 1) return;
      const Index cut = p.queries / 2, first = p.keys - p.queries + cut;  // the first query that changes, the first key
      Tensors<T> changed = in;
      changed.q.for_each([&](T& x, Index, Index, Index t, Index) { x = t < cut ? x : T(1.0F); });
      for (Tensor<T>* x : {&changed.k, &changed.v}) {
        x->for_each([&](T& e, Index, Index, Index t, Index) { e = t < first ? e : T(2.0F); });
      }
      const Pass<T> after = pass_of(p, changed);
      EXPECT_TRUE(same_bits(tokens_of(after.o, 0, cut), tokens_of(right.o, 0, cut)));
      EXPECT_FALSE(same_bits(after.o, right.o));
    });
  }
}

// A token whose value is not finite spoils only the rows that keep it: its candidate stands for nothing.
TEST(Tail, ValuesThatAreNotFiniteAreNoTail) {
  Problem p{.name = "not finite", .heads = 3, .queries = 150, .keys = 300, .dim = 24};
  p.options.hsa = {.window = 8, .top_k = 32, .block = 2, .sinks = 4, .dense_until = 0, .node = 8, .tail = 0.5};
  Tensors<float> in = random_tensors(p, 6);
  constexpr Index kSpoiled = 101;
  for (Index c = 0; c < p.dim; ++c) in.v.row(0, 0, kSpoiled)[c] = std::numeric_limits<float>::quiet_NaN();
  const Pass<float> found = pass_of(p, in);
  const Pass<double> right = pass_of(p, in_double(in));
  const Index slots = std::ssize(found.lists) / p.queries;
  Index finite = 0;
  for (Index i = 0; i < p.queries; ++i) {
    const auto list = found.lists.begin() + i * slots;
    const bool keeps = std::find(list, list + slots, kSpoiled / 2) != list + slots || p.keys - p.queries + i < 110;
    for (Index h = 0; h < p.heads && !keeps; ++h, ++finite) {
      for (Index c = 0; c < p.dim; ++c) {
        ASSERT_TRUE(std::isfinite(found.o.row(0, h, i)[c])) << "query " << i;
      }
      if (std::equal(list, list + slots, right.lists.begin() + i * slots)) {
        ASSERT_NEAR(found.lse[h * p.queries + i], right.lse[h * p.queries + i], 2e-5);
      }
    }
  }
  EXPECT_GT(finite, 100);
}

TEST(Tail, IsRefusedWhereASearchIsMissing) {
  const Problem p = problem_of(kCases[0]);
  const Tensors<float> in = random_tensors(p, 1);
  const Plan plan = plan_of(p, in);
  const auto error_of = [](const auto& call) {
    try {
      call();
    } catch (const Unsupported& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const std::string tail = "the plan has a tail of 0.5, which a search finds anew and which has no gradient";
  EXPECT_EQ(error_of([&] { solve_forward(p, in, plan); }).find("attention_forward: " + tail), 0U);
  testing::Solution<float> s;
  s.o = s.dq = Tensor<float>(p.batch, p.heads, p.queries, p.dim);
  s.dk = s.dv = Tensor<float>(p.batch, p.kv_heads, p.keys, p.dim);
  s.lse.resize(static_cast<std::size_t>(p.batch * p.heads * p.queries));
  const auto backward = [&] {
    const AttentionSaved saved{in.dout.view(), as_const(s.o.view()), s.lse.data()};
    attention_backward(in.inputs(p), plan, saved, {s.dq.view(), s.dk.view(), s.dv.view()});
  };
  EXPECT_EQ(error_of(backward).find("attention_backward: " + tail), 0U);
}

}  // namespace
}  // namespace hsattn
