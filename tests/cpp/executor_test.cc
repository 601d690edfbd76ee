// Executors: each task once, exceptions come back, pools live on.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "hsattn/hsattn.h"

namespace hsattn {
namespace {

bool runs_each_task_once(Executor& executor, Index tasks) {
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
  executor.run(tasks, [&](Index i) { ++runs[i]; });
  for (const auto& count : runs) {
    if (count != 1) return false;
  }
  return true;
}

TEST(Executor, RunsEachTaskOnce) {
  for (const int threads : {1, 2, 4}) {
    const auto pool = make_thread_pool(threads);
    EXPECT_EQ(pool->threads(), threads);
    for (const Index tasks : {0, 1, 2, 3, 1000}) {
      EXPECT_TRUE(runs_each_task_once(*pool, tasks)) << threads << " threads, " << tasks << " tasks";
    }
  }
  EXPECT_EQ(serial_executor().threads(), 1);
  EXPECT_TRUE(runs_each_task_once(serial_executor(), 10));
  EXPECT_GE(make_thread_pool(0)->threads(), 1);
}

TEST(Executor, RethrowsAndLivesOn) {
  const auto pool = make_thread_pool(3);
  for (Executor* executor : {pool.get(), &serial_executor()}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      EXPECT_THROW(executor->run(50,
                                 [](Index i) {
                                   if (i == 17) throw std::runtime_error("17");
                                 }),
                   std::runtime_error);
      EXPECT_TRUE(runs_each_task_once(*executor, 50));
    }
  }
}

#if !defined(__SANITIZE_THREAD__)  // which allows no threads after fork()
bool ends_well(pid_t child) {
  int status = -1;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Executor, WorksAfterFork) {
  const auto pool = make_thread_pool(2);
  ASSERT_TRUE(runs_each_task_once(*pool, 100));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    _exit(runs_each_task_once(*pool, 100) ? 0 : 1);
  }
  EXPECT_TRUE(ends_well(child));
  EXPECT_TRUE(runs_each_task_once(*pool, 100));
}

TEST(Executor, IsDestroyedAfterFork) {
  auto pool = make_thread_pool(2);
  ASSERT_TRUE(runs_each_task_once(*pool, 100));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    pool.reset();
    _exit(0);
  }
  EXPECT_TRUE(ends_well(child));
}
#endif

TEST(Executor, NegativeThreadsAreRefused) {
  try {
    make_thread_pool(-3);
    FAIL();
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "make_thread_pool: threads is -3; it must be at least 1, or 0 for all processors");
  }
}

TEST(Executor, IsaNames) {
  EXPECT_FALSE(available_isas().empty());
  EXPECT_EQ(available_isas()[2], Isa::kPortable);
  const char* forced = std::getenv("HSATTN_ISA");
  EXPECT_STREQ(name_of(selected_isa()), forced != nullptr ? forced : name_of(available_isas().back()));
  EXPECT_NE(describe_processor(), "");
}

}  // namespace
}  // namespace hsattn
