// Memory that cannot be had is an error that says how much, in whatever place; the next call is right.
#include "support/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "hsattn/base/buffer.h"
#include "support/problem.h"

namespace hsattn {
namespace {

using testing::in_a_child;
using testing::limit_memory;
using testing::out_of_memory_message;
using testing::Problem;
using testing::smallest_budgets;
using testing::Solution;
using testing::Tensors;

[[maybe_unused]] Problem small_problem(Index queries) {
  Problem p{.name = "small", .heads = 2, .kv_heads = 2, .queries = queries, .keys = queries, .dim = 24};
  p.options.hsa = smallest_budgets();
  return p;
}

TEST(Memory, ArraysOfASlabAreAlignedAndLieApart) {
  std::byte* bytes = nullptr;
  double* none = nullptr;
  float* floats = nullptr;
  const Slab slab("test", [&](Slab::Taker& take) {
    take(bytes, 65);
    take(none, 0);
    take(floats, 16);
  });
  const auto address = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer); };
  for (const std::uintptr_t at : {address(bytes), address(none), address(floats)}) EXPECT_EQ(at % kAlignment, 0U);
  std::fill_n(bytes, 65, std::byte{1});
  std::fill_n(floats, 16, 2.0F);
  EXPECT_TRUE(std::all_of(bytes, bytes + 65, [](std::byte b) { return b == std::byte{1}; }));
  EXPECT_TRUE(std::all_of(floats, floats + 16, [](float x) { return x == 2.0F; }));
}

#if HSATTN_CAN_FAIL_ALLOCATIONS
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
  const long failures = testing::failures_until_success(call);
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

#if HSATTN_CAN_LIMIT_MEMORY

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

// What is wrong with the messages of three calls that need 16 to 64 GiB, and with a small call after them.
std::string huge_then_small(DType type, const std::string& size, Executor& executor) {
  const Problem p = small_problem(70);
  const Tensors<float> in = random_tensors(p, 1);
  const Plan plan = plan_of(p, in, executor);
  const Solution<float> right = solve(p, in, plan, executor);
  HugeCall huge(type);
  huge.reserve_gradients();
  if (huge.gradients == MAP_FAILED) return "no addresses";
  limit_memory(Index{2} << 30);

  PlanOptions full;
  full.pattern = Pattern::kFull;
  const PlanShape shape = plan_shape(full, DType::kFloat32, 1, 1, 1, HugeCall::kKeys);
  const std::string messages[] = {
      out_of_memory_message([&] { make_plan(huge.in.q, huge.in.k, {}, {}, executor); }), out_of_memory_message([&] {
        attention_forward(huge.in, full, {huge.query(huge.o), &huge.lse}, nullptr, executor);
      }),
      out_of_memory_message([&] {
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
    EXPECT_EQ(in_a_child([&] {
                const auto pool = make_thread_pool(threads);
                // Keys, values, and a byte for each unit of 8.
                return huge_then_small(DType::kFloat32, "34361835520 bytes", *pool);
              }),
              "");
    EXPECT_EQ(in_a_child([&] {
                const auto pool = make_thread_pool(threads);
                return huge_then_small(DType::kFloat64, "34359738368 bytes", *pool);
              }),
              "");
  }
}

TEST(Memory, APoolWorksWithTheThreadsThatItGets) {
  EXPECT_EQ(in_a_child([]() -> std::string {
              limit_memory(Index{2} << 30);
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
