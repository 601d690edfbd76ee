// Any number of threads or callers, any repeat, and a forked child give the same bits, forward and backward.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Random;
using testing::smallest_budgets;
using testing::Solution;
using testing::Tensors;
using testing::uniform;

void expect_same_bits(const Problem& p, const Tensors<float>& in, const Plan& plan, const Solution<float>& right,
                      Executor& executor) {
  ASSERT_EQ(plan_of(p, in, executor), plan);
  const Solution<float> found = solve(p, in, plan, executor);
  ASSERT_TRUE(same_bits(found.o, right.o));
  ASSERT_TRUE(testing::same_bits(found.lse.data(), right.lse.data(), std::ssize(right.lse)));
  ASSERT_TRUE(same_bits(found.dq, right.dq));
  ASSERT_TRUE(same_bits(found.dk, right.dk));
  ASSERT_TRUE(same_bits(found.dv, right.dv));
}

struct Case {
  const char* name;
  Index batch, heads, kv_heads, queries, keys;
  Pattern pattern;
  bool causal, far_field;
  int repeats;
  Pooling pooling = Pooling::kMean;
  double mass = 0;
};

constexpr Case kCases[] = {
    {"one head", 1, 1, 1, 300, 300, Pattern::kHsa, true, true, 25},
    {"several heads", 2, 6, 2, 130, 130, Pattern::kHsa, true, false, 25},
    {"group of 3, far field", 1, 3, 1, 150, 170, Pattern::kHsa, true, true, 200},
    {"both sides", 1, 2, 1, 150, 150, Pattern::kHsa, false, true, 25},
    {"maxima, mass", 2, 6, 2, 150, 170, Pattern::kHsa, true, true, 25, Pooling::kMax, 0.8},
    {"maxima, mass, both sides", 1, 2, 1, 140, 149, Pattern::kHsa, false, true, 25, Pooling::kMax, 0.5},
    {"full", 1, 2, 2, 200, 200, Pattern::kFull, true, false, 25},
    {"full, both sides", 1, 6, 2, 90, 131, Pattern::kFull, false, false, 25},
    {"local, both sides", 1, 6, 2, 90, 131, Pattern::kLocal, false, false, 25},
    {"strided", 1, 3, 1, 300, 300, Pattern::kSparseTransformer, true, false, 25},
    {"fixed, both sides", 1, 6, 2, 90, 131, Pattern::kSparseTransformerFixed, false, false, 25},
    {"longformer, both sides", 2, 6, 2, 150, 170, Pattern::kLongformer, false, false, 25},
    {"bigbird", 2, 6, 2, 150, 170, Pattern::kBigBird, true, false, 25},
    {"decode", 1, 4, 2, 1, 400, Pattern::kHsa, true, false, 25},
};

Problem problem_of(const Case& c) {
  Problem p{.name = c.name,
            .batch = c.batch,
            .heads = c.heads,
            .kv_heads = c.kv_heads,
            .queries = c.queries,
            .keys = c.keys,
            .dim = 24};
  p.options = {c.pattern, c.causal, {}};
  p.options.hsa = smallest_budgets(c.far_field);
  p.options.hsa.pooling = c.pooling;
  p.options.hsa.mass = c.mass;
  p.options.hsa.min_top_k = 4;
  return p;
}

TEST(Threads, TwoThreadsGiveTheBitsOfOneAtEveryRepeat) {
  const auto pool = make_thread_pool(2);
  ASSERT_EQ(pool->threads(), 2);
  for (const Case& c : kCases) {
    const Problem p = problem_of(c);
    SCOPED_TRACE(describe(p));
    const Tensors<float> in = random_tensors(p, 1);
    const Plan plan = plan_of(p, in);
    const Solution<float> right = solve(p, in, plan);
    for (int repeat = 0; repeat < c.repeats; ++repeat) {
      SCOPED_TRACE(concat("repeat ", repeat));
      expect_same_bits(p, in, plan, right, *pool);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Threads, MoreThreadsAndMoreWork) {
  const auto pool = make_thread_pool(5);
  Random random(15);
  for (int i = 0; i < 10; ++i) {
    Problem p{.name = "random", .batch = uniform(random, 1, 3)};
    p.options = testing::searching_options(random, uniform(random, 0, 1) == 1);
    p.kv_heads = uniform(random, 1, 3);
    p.heads = p.kv_heads * testing::one_of<Index>(random, {1, 3});
    p.keys = uniform(random, 1, 300);
    p.queries = uniform(random, 1, p.keys);
    p.dim = testing::one_of<Index>(random, {8, 40, 64});
    SCOPED_TRACE(describe(p));
    const Tensors<float> in = random_tensors(p, static_cast<std::uint64_t>(i));
    const Plan plan = plan_of(p, in);
    expect_same_bits(p, in, plan, solve(p, in, plan), *pool);
  }
}

// Callers share tensors and plan, and an executor or none of it.
void expect_same_bits_at_once(const std::function<Executor&(int)>& executor_of) {
  const Problem p = problem_of(kCases[2]);
  const Tensors<float> in = random_tensors(p, 1);
  const Plan plan = plan_of(p, in);
  const Solution<float> right = solve(p, in, plan);
  constexpr int kCallers = 4, kRepeats = 10;
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        Executor& executor = executor_of(caller);
        if (plan_of(p, in, executor) != plan || !same_bits(solve(p, in, plan, executor), right)) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Threads, FourCallersAtOnceGetTheBitsOfOneAlone) {
  const auto shared = make_thread_pool(3);
  std::vector<std::unique_ptr<Executor>> own;
  for (int i = 0; i < 4; ++i) own.push_back(make_thread_pool(2));
  expect_same_bits_at_once([](int) -> Executor& { return serial_executor(); });
  expect_same_bits_at_once([&](int) -> Executor& { return *shared; });
  expect_same_bits_at_once([&](int caller) -> Executor& { return *own[static_cast<std::size_t>(caller)]; });
}

#if !defined(__SANITIZE_THREAD__)  // which allows no threads after fork()
TEST(Threads, AChildOfForkGetsTheSameBits) {
  const auto pool = make_thread_pool(2);
  const Problem p = problem_of(kCases[2]);
  const Tensors<float> in = random_tensors(p, 1);
  const Plan plan = plan_of(p, in, *pool);
  const Solution<float> right = solve(p, in, plan, *pool);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    _exit(plan_of(p, in, *pool) == plan && same_bits(solve(p, in, plan, *pool), right) ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_TRUE(same_bits(solve(p, in, plan, *pool), right));
}
#endif

}  // namespace
}  // namespace hsattn
