// What a row does not see cannot touch it, whatever it holds; a row that sees nothing gives zeros.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

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

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Poison {
  float value;
  bool in_keys, in_values;
};

constexpr Poison kPoisons[] = {{kNan, true, false},       {kNan, false, true},      {kNan, true, true},
                               {kInfinity, true, false},  {kInfinity, false, true}, {-kInfinity, true, false},
                               {-kInfinity, false, true}, {kInfinity, true, true},  {1e38F, true, true}};

// seen[query][token]: of one (batch, kv head), far nodes included.
std::vector<std::vector<bool>> seen_tokens(const Plan& plan, Index b, Index h) {
  const PlanShape& s = plan.shape;
  std::vector<std::vector<bool>> seen(s.queries, std::vector<bool>(s.keys, false));
  for (Index i = 0; i < s.queries; ++i) {
    for (const reference::Node& node : reference::seen_by(plan, b, h, i)) {
      const Index begin = node.level < 0 ? node.index : (node.index << node.level) * s.block;
      std::fill_n(seen[i].begin() + begin, node.tokens, true);
    }
  }
  return seen;
}

bool rows_equal(const Tensor<float>& a, const Tensor<float>& b, Index batch, Index head, Index token) {
  return testing::same_bits(a.row(batch, head, token), b.row(batch, head, token), a.dim);
}

bool all_zero(const Tensor<float>& a, Index batch, Index head, Index token) {
  const float* row = a.row(batch, head, token);
  return std::all_of(row, row + a.dim, [](float x) { return x == 0; });
}

struct Compared {
  Index rows = 0, rows_beside_poison = 0, tokens = 0, unseen_poison = 0;
};

// Poisons `tokens` of every kv head with the plan held fixed. Rows that do not see them keep their bits, and so do the
// gradients of tokens that only such rows see; poisoned tokens that no row sees have the gradient 0.
void expect_untouched(const Problem& p, const Tensors<float>& in, const Plan& plan, const Solution<float>& clean,
                      const std::set<Index>& tokens, const Poison& poison, Compared& compared) {
  SCOPED_TRACE(concat("poison ", poison.value, poison.in_keys ? " in keys" : "", poison.in_values ? " in values" : ""));
  Tensors<float> bad = in;
  const auto spoil = [&](float& x, Index, Index, Index t, Index) { x = tokens.count(t) > 0 ? poison.value : x; };
  if (poison.in_keys) bad.k.for_each(spoil);
  if (poison.in_values) bad.v.for_each(spoil);
  const Solution<float> found = solve(p, bad, plan);
  for (Index b = 0; b < p.batch; ++b) {
    for (Index h = 0; h < p.kv_heads; ++h) {
      const auto seen = seen_tokens(plan, b, h);
      std::vector<bool> touched(p.queries, false), reached(p.keys, false), seen_by_any(p.keys, false);
      for (Index i = 0; i < p.queries; ++i) {
        for (const Index t : tokens) touched[i] = touched[i] || seen[i][t];
        for (Index t = 0; t < p.keys; ++t) {
          reached[t] = reached[t] || (touched[i] && seen[i][t]);
          seen_by_any[t] = seen_by_any[t] || seen[i][t];
        }
      }
      for (Index i = 0; i < p.queries; ++i) {
        if (touched[i]) continue;
        ++compared.rows;
        compared.rows_beside_poison += (i > 0 && touched[i - 1]) || (i + 1 < p.queries && touched[i + 1]);
        for (Index head = h * p.group(); head < (h + 1) * p.group(); ++head) {
          ASSERT_TRUE(rows_equal(found.o, clean.o, b, head, i)) << "o of head " << head << ", query " << i;
          ASSERT_TRUE(rows_equal(found.dq, clean.dq, b, head, i)) << "dq of head " << head << ", query " << i;
          const Index row = (b * p.heads + head) * p.queries + i;
          ASSERT_EQ(found.lse[row], clean.lse[row]) << "lse of head " << head << ", query " << i;
        }
      }
      for (Index t = 0; t < p.keys; ++t) {
        if (reached[t]) continue;
        ++compared.tokens;
        ASSERT_TRUE(rows_equal(found.dk, clean.dk, b, h, t)) << "dk of token " << t;
        ASSERT_TRUE(rows_equal(found.dv, clean.dv, b, h, t)) << "dv of token " << t;
        if (tokens.count(t) == 0 || seen_by_any[t]) continue;
        ++compared.unseen_poison;
        ASSERT_TRUE(all_zero(found.dk, b, h, t) && all_zero(found.dv, b, h, t)) << "token " << t;
      }
    }
  }
}

Problem random_problem(Random& random, bool far_field) {
  Problem p{.name = "random"};
  p.options = far_field ? testing::searching_options(random, uniform(random, 0, 2) > 0)
                        : testing::selecting_options(random, uniform(random, 0, 2) > 0);
  p.options.hsa.top_k = 16;
  p.options.hsa.far_field = far_field;
  if (far_field) p.options.hsa.node = 0;
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * testing::one_of<Index>(random, {1, 3});
  p.dim = testing::one_of<Index>(random, {8, 24, 64});
  p.keys = uniform(random, 100, 300);
  p.queries = uniform(random, 0, 1) == 0 ? p.keys : uniform(random, 10, 100);
  return p;
}

TEST(Unseen, PoisonInsideAGroupReachesOnlyRowsThatSeeIt) {
  Random random(61);
  Compared compared;
  for (int i = 0; i < 18; ++i) {
    const Problem p = random_problem(random, false);
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const Plan plan = plan_of(p, in);
    const Solution<float> clean = solve(p, in, plan);
    std::set<Index> one{uniform(random, 0, p.keys - 1)}, some;
    for (int j = 0; j < 3; ++j) some.insert(uniform(random, 0, p.keys - 1));
    for (const Poison& poison : kPoisons) {
      expect_untouched(p, in, plan, clean, one, poison, compared);
      expect_untouched(p, in, plan, clean, some, poison, compared);
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(compared.rows, 10000);
  EXPECT_GT(compared.rows_beside_poison, 500);
  EXPECT_GT(compared.tokens, 500);
  EXPECT_GT(compared.unseen_poison, 10);
}

TEST(Unseen, PoisonInTheFutureReachesNothingBeforeIt) {
  // With the far field every past token is seen, so only the future is unseen.
  Random random(62);
  Compared compared;
  for (int i = 0; i < 10; ++i) {
    Problem p = random_problem(random, true);
    p.options.causal = true;
    p.queries = p.keys;
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const Plan plan = plan_of(p, in);
    const Solution<float> clean = solve(p, in, plan);
    const Index t = uniform(random, p.keys / 2, p.keys - 1);
    for (const Poison& poison : kPoisons) {
      expect_untouched(p, in, plan, clean, {t}, poison, compared);
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(compared.rows, 1000);
}

TEST(Unseen, ListsBeforeAPoisonedTokenStay) {
  Random random(63);
  for (int i = 0; i < 20; ++i) {
    Problem p = random_problem(random, i % 2 == 0);
    p.options.causal = true;
    p.queries = p.keys;
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const Plan clean = plan_of(p, in);
    const Index t = uniform(random, p.keys / 2, p.keys - 1);
    for (const float value : {kNan, kInfinity, -kInfinity}) {
      for (Index h = 0; h < p.kv_heads; ++h) std::fill_n(in.k.row(0, h, t), p.dim, value);
      const Plan found = plan_of(p, in);
      ASSERT_NO_THROW(check_plan(found));
      for (Index h = 0; h < p.kv_heads; ++h) {
        for (Index q = 0; q < t; ++q) {
          const auto a = clean.list(0, h, q), b = found.list(0, h, q);
          ASSERT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << "query " << q;
        }
      }
    }
  }
}

// Values take no part in the choice, and those of blocks that are not kept take no part at all.
TEST(Unseen, PoisonedValuesMoveNoList) {
  Random random(64);
  const Problem p = random_problem(random, false);
  Tensors<float> in = random_tensors(p, 1);
  const Plan clean = plan_of(p, in);
  std::fill(in.v.data.begin(), in.v.data.end(), kNan);
  EXPECT_EQ(plan_of(p, in), clean);
}

struct NothingCase {
  const char* name;
  Pattern pattern;
  bool causal;
  Index queries, keys, rows;  // the first `rows` queries see nothing
};

constexpr NothingCase kNothing[] = {
    {"no keys", Pattern::kFull, true, 7, 0, 7},
    {"no keys, both sides", Pattern::kHsa, false, 7, 0, 7},
    {"no keys, global tokens", Pattern::kLongformer, false, 7, 0, 7},
    {"positions before the first key, bigbird", Pattern::kBigBird, true, 200, 100, 100},
    {"positions before the first key", Pattern::kFull, true, 40, 10, 30},
    {"positions before the first key, hsa", Pattern::kHsa, true, 200, 100, 100},
    {"window before the first key", Pattern::kLocal, true, 50, 20, 30},
    // Position p sees up to p + 8, rounded up to blocks of 4: nothing below position -8.
    {"window before the first key, both sides", Pattern::kLocal, false, 50, 20, 22},
};

TEST(Unseen, RowThatSeesNothingGivesZeros) {
  for (const NothingCase& c : kNothing) {
    for (const Index group : {1, 3}) {
      Problem p{.name = c.name,
                .batch = 2,
                .heads = 2 * group,
                .kv_heads = 2,
                .queries = c.queries,
                .keys = c.keys,
                .dim = 24};
      p.options = {c.pattern, c.causal, {}};
      p.options.hsa = {.window = 8, .top_k = 16, .candidates = 32, .block = 4, .sinks = 4, .dense_until = 0};
      SCOPED_TRACE(describe(p));
      const Tensors<float> in = random_tensors(p, 1);
      const Plan plan = plan_of(p, in);
      const Solution<float> out = solve(p, in, plan);
      for (Index b = 0; b < p.batch; ++b) {
        for (Index h = 0; h < p.heads; ++h) {
          for (Index i = 0; i < p.queries; ++i) {
            const float lse = out.lse[(b * p.heads + h) * p.queries + i];
            ASSERT_EQ(all_zero(out.o, b, h, i), i < c.rows) << "query " << i;
            if (i < c.rows) {
              ASSERT_TRUE(all_zero(out.dq, b, h, i)) << "query " << i;
            }
            ASSERT_EQ(lse == -kInfinity, i < c.rows) << "query " << i;
            ASSERT_FALSE(std::isnan(lse)) << "query " << i;
          }
        }
      }
    }
  }
}

TEST(Unseen, OneTokenSeesItself) {
  Problem p{.name = "itself", .queries = 1, .keys = 1, .dim = 8};
  const Tensors<float> in = random_tensors(p, 1);
  const Solution<float> out = solve(p, in, plan_of(p, in));
  for (Index c = 0; c < p.dim; ++c) EXPECT_NEAR(out.o.row(0, 0, 0)[c], in.v.row(0, 0, 0)[c], 1e-6);
  for (Index c = 0; c < p.dim; ++c) {
    EXPECT_NEAR(out.dv.row(0, 0, 0)[c], in.dout.row(0, 0, 0)[c], 1e-6);
  }
}

}  // namespace
}  // namespace hsattn
