// Memory that cannot be had is an error that says how much, in whatever place; the next call is right.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <new>

#include "support/problem.h"

#if !defined(__SANITIZE_ADDRESS__)  // whose own operators these would mix with
namespace {

// Allocations by operator new until one fails, once; below 0: none does.
std::atomic<long> allocations_left{-1};

void* allocate(std::size_t bytes) {
  if (allocations_left >= 0 && allocations_left-- == 0) throw std::bad_alloc();
  void* memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace hsattn {
namespace {

using testing::Problem;
using testing::smallest_budgets;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;

[[maybe_unused]] Problem small_problem(Index queries) {
  Problem p{.name = "small", .heads = 2, .kv_heads = 2, .queries = queries, .keys = queries, .dim = 24};
  p.options.hsa = smallest_budgets();
  return p;
}

#if !defined(__SANITIZE_ADDRESS__)
template <class T>
void expect_every_failure_is_named(const Problem& p, const Tensors<T>& in, Executor& executor) {
  const Plan plan = plan_of(p, in, executor);
  const Solution<T> right = solve(p, in, plan, executor);
  Solution<T> out = right;
  const auto call = [&] {
    const Plan found = make_plan(in.q.view(), in.k.view(), p.options, p.scale, executor);
    attention_forward(in.inputs(p), p.options, {out.o.view(), out.lse.data()}, nullptr, executor);
    attention_forward(in.inputs(p), found, {out.o.view(), out.lse.data()}, executor);
    attention_backward(in.inputs(p), found, {in.dout.view(), as_const(out.o.view()), out.lse.data()},
                       {out.dq.view(), out.dk.view(), out.dv.view()}, executor);
  };
  long failures = 0;
  for (bool failed = true; failed; ++failures) {
    failed = false;
    allocations_left = failures;
    try {
      call();
    } catch (const OutOfMemory& error) {
      failed = true;
      EXPECT_NE(std::string(error.what()).find("no memory"), std::string::npos) << error.what();
    }
    allocations_left = -1;
    ASSERT_LT(failures, 100000);
  }
  EXPECT_GT(failures, 10);
  EXPECT_TRUE(same_bits(out, right));
}

// std::bad_alloc or worse would end this test.
TEST(Memory, EveryAllocationThatFailsIsAnOutOfMemory) {
  const auto pool = make_thread_pool(2);
  for (Executor* executor : {&serial_executor(), pool.get()}) {
    const Problem p = small_problem(70), tiny = small_problem(20);
    expect_every_failure_is_named(p, random_tensors(p, 1), *executor);
    expect_every_failure_is_named(tiny, in_double(random_tensors(tiny, 1)), *executor);
  }
}

#endif

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which need terabytes of addresses

// No more than 2 GiB of addresses besides those in use.
void limit_memory() {
  Index pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const auto bytes = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE)) + (rlim_t{2} << 30);
  const rlimit limit{bytes, bytes};
  if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(3);
}

// Runs `body` in a child with little memory, and says what went wrong there: "" if it returned "".
std::string in_a_small_child(const std::function<std::string()>& body) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child < 0) return "no fork";
  if (child == 0) {
    alarm(60);
    std::string found = "ended by an unknown exception";
    try {
      found = body();
    } catch (const std::exception& error) {
      found = error.what();
    } catch (...) {
    }
    const auto written = write(ends[1], found.data(), found.size());
    _exit(written == std::ssize(found) ? 0 : 2);
  }
  close(ends[1]);
  std::string found;
  char buffer[256];
  for (auto count = read(ends[0], buffer, sizeof buffer); count > 0; count = read(ends[0], buffer, sizeof buffer)) {
    found.append(buffer, static_cast<std::size_t>(count));
  }
  close(ends[0]);
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? found : concat("child ended with status ", status);
}

// 2^24 keys that all lie in one row of memory, by a stride of 0: tensors of kilobytes, copies of 16 GiB each.
struct HugeCall {
  static constexpr Index kKeys = Index{1} << 24, kDim = 256;
  std::vector<double> row, o, dq;
  double lse = 0;
  void* gradients = MAP_FAILED;  // addresses without memory, one after another for dk and dv
  DType type;
  AttentionInputs in;

  explicit HugeCall(DType dtype) : row(kDim, 0.5), o(kDim), dq(kDim), type(dtype) {
    const ConstView one = contiguous_view(static_cast<const void*>(row.data()), type, 1, 1, 1, kDim);
    ConstView keys = one;
    keys.tokens = kKeys;
    keys.token_stride = 0;
    in = {one, keys, keys, {}};
  }

  // Reserved before memory is limited.
  void reserve_gradients() {
    gradients =
        mmap(nullptr, 2 * gradient_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  std::size_t gradient_bytes() const { return static_cast<std::size_t>(kKeys * kDim * size_of(type)); }
  View query(std::vector<double>& x) const {
    return contiguous_view(static_cast<void*>(x.data()), type, 1, 1, 1, kDim);
  }
  View gradient(std::size_t which) const {
    return contiguous_view(static_cast<void*>(static_cast<char*>(gradients) + which * gradient_bytes()), type, 1, 1,
                           kKeys, kDim);
  }
};

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const OutOfMemory& error) {
    return error.what();
  }
  return "no error";
}

// What is wrong with the messages of three calls that need 16 to 64 GiB, and with a small call after them.
std::string huge_then_small(DType type, const std::string& size, Executor& executor) {
  const Problem p = small_problem(70);
  const Tensors<float> in = random_tensors(p, 1);
  const Plan plan = plan_of(p, in, executor);
  const Solution<float> right = solve(p, in, plan, executor);
  HugeCall huge(type);
  huge.reserve_gradients();
  if (huge.gradients == MAP_FAILED) return "no addresses";
  limit_memory();

  PlanOptions full;
  full.pattern = Pattern::kFull;
  const PlanShape shape = plan_shape(full, 1, 1, 1, HugeCall::kKeys);
  const std::string messages[] = {
      message_of([&] { make_plan(huge.in.q, huge.in.k, {}, {}, executor); }),
      message_of([&] { attention_forward(huge.in, full, {huge.query(huge.o), &huge.lse}, nullptr, executor); }),
      message_of([&] {
        attention_backward(huge.in, {shape, nullptr}, {huge.in.q, as_const(huge.query(huge.o)), &huge.lse},
                           {huge.query(huge.dq), huge.gradient(0), huge.gradient(1)}, executor);
      })};
  for (const std::string& message : messages) {
    if (message.find("no memory for ") == std::string::npos || message.find(" bytes") == std::string::npos) {
      return message;
    }
  }
  if (messages[1].find(size) == std::string::npos) return messages[1] + " lacks " + size;
  return same_bits(solve(p, in, plan, executor), right) ? "" : "the small call is wrong";
}

TEST(Memory, AHugeRequestNamesItsSizeAndTheProcessGoesOn) {
  for (const int threads : {1, 2}) {
    EXPECT_EQ(in_a_small_child([&] {
                const auto pool = make_thread_pool(threads);
                return huge_then_small(DType::kFloat32, "17179869184 bytes", *pool);
              }),
              "");
    EXPECT_EQ(in_a_small_child([&] {
                const auto pool = make_thread_pool(threads);
                return huge_then_small(DType::kFloat64, "34359738368 bytes", *pool);
              }),
              "");
  }
}

TEST(Memory, APoolWorksWithTheThreadsThatItGets) {
  EXPECT_EQ(in_a_small_child([]() -> std::string {
              limit_memory();
              const auto pool = make_thread_pool(5000);  // their stacks would take 40 GiB of addresses
              std::atomic<int> runs{0};
              pool->run(10000, [&](Index) { ++runs; });
              return runs == 10000 ? "" : "a task was lost";
            }),
            "");
}

#endif

}  // namespace
}  // namespace hsattn
