// Wrong calls: an error that says who, what was found and what is right, before anything is read, written or allocated.
// Empty calls: an empty result.
#include <gtest/gtest.h>

#include <functional>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Solution;
using testing::Tensors;

// A correct call whose parts a case may spoil.
struct Call {
  Problem problem{.name = "call", .batch = 2, .heads = 4, .kv_heads = 2, .queries = 6, .keys = 8, .dim = 64};
  Tensors<float> tensors = random_tensors(problem, 1);
  Solution<float> memory;
  std::vector<float> shared;  // for cases that lay two tensors into it
  PlanOptions options{Pattern::kFull, true, {}};
  AttentionInputs in;
  AttentionOutputs out;
  AttentionSaved saved;
  AttentionGradients grads;
  Plan plan;

  Call() {
    problem.options = options;
    plan = plan_of(problem, tensors);
    memory = solve(problem, tensors, plan);
    in = tensors.inputs(problem);
    out = {memory.o.view(), memory.lse.data()};
    saved = {std::as_const(tensors.dout).view(), as_const(out.o), out.lse};
    grads = {memory.dq.view(), memory.dk.view(), memory.dv.view()};
  }
};

template <class Run>
std::string error_of(Run run) {
  try {
    run();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no InvalidArgument";
}

struct Case {
  const char* name;
  std::function<void(Call&)> spoil;
  std::string says;  // after "attention_forward: ", "attention_backward: " or "make_plan: "
};

const std::vector<Case> kInputCases = {
    {"head dimension", [](Call& c) { c.in.k.dim = c.in.v.dim = 32; },
     "k has head dimension 32, q has 64; they must be equal"},
    {"batch", [](Call& c) { c.in.k.batch = c.in.v.batch = 1; }, "k has batch 1, q has 2; they must be equal"},
    {"type", [](Call& c) { c.in.k.dtype = DType::kFloat64; }, "k is float64, q is float32; they must be equal"},
    {"head dimension too small", [](Call& c) { c.in.q.dim = c.in.k.dim = 4; },
     "q has head dimension 4; it must be from 8 to 256"},
    {"head dimension too large", [](Call& c) { c.in.q.dim = c.in.k.dim = 257; },
     "q has head dimension 257; it must be from 8 to 256"},
    {"heads", [](Call& c) { c.in.q.heads = 3; }, "q has 3 heads, k has 2; the first must be a multiple of the second"},
    {"no kv heads", [](Call& c) { c.in.k.heads = 0; },
     "q has 4 heads, k has 0; the first must be a multiple of the second"},
    {"negative size", [](Call& c) { c.in.q.tokens = -1; }, "q has shape [2, 4, -1, 64]; no size may be negative"},
    {"negative stride", [](Call& c) { c.in.k.token_stride = -64; },
     "k has strides 1024, 512, -64; none may be negative"},
    {"no memory", [](Call& c) { c.in.q.data = nullptr; }, "q has no memory; shape [2, 4, 6, 64] needs some"},
    {"impossible size", [](Call& c) { c.in.q.tokens = Index{1} << 50; },
     "q has shape [2, 4, 1125899906842624, 64] and strides 1536, 384, 64; it must span less than 2^56 elements"},
    {"impossible stride", [](Call& c) { c.in.k.head_stride = INT64_MAX; },
     "k has shape [2, 2, 8, 64] and strides 1024, 9223372036854775807, 64; it must span less than 2^56 elements"},
    {"infinite scale", [](Call& c) { c.in.scale = std::numeric_limits<double>::infinity(); },
     "scale is inf; it must be finite"},
    {"scale that is not a number", [](Call& c) { c.in.scale = std::numeric_limits<double>::quiet_NaN(); },
     "scale is nan; it must be finite"},
};

const std::vector<Case> kForwardCases = {
    {"values", [](Call& c) { c.in.v.tokens = 7; },
     "v has shape [2, 2, 7, 64], k has [2, 2, 8, 64]; they must be equal"},
    {"values' type", [](Call& c) { c.in.v.dtype = DType::kFloat64; }, "v is float64, k is float32; they must be equal"},
    {"output shape", [](Call& c) { c.out.o.heads = 2; },
     "o has shape [2, 2, 6, 64], q has [2, 4, 6, 64]; they must be equal"},
    {"output type", [](Call& c) { c.out.o.dtype = DType::kFloat64; }, "o is float64, q is float32; they must be equal"},
    {"output over q", [](Call& c) { c.out.o.data = c.tensors.q.data.data(); },
     "o shares memory with q; it must lie apart"},
    {"output over the end of v",
     [](Call& c) {
       c.shared = std::vector<float>(10000, 0.0F);
       c.in.v.data = c.shared.data();
       c.out.o.data = c.shared.data() + c.in.v.elements() - 1;
     },
     "o shares memory with v; it must lie apart"},
    {"lse over o", [](Call& c) { c.out.lse = c.memory.o.data.data() + 5; },
     "o shares memory with lse; it must lie apart"},
    {"lse over k", [](Call& c) { c.out.lse = c.tensors.k.data.data(); }, "lse shares memory with k; it must lie apart"},
    {"folded output", [](Call& c) { c.out.o.token_stride = 0; },
     "o has strides 1536, 384, 0 for dimension 64; its elements must lie apart"},
    {"plan of another shape", [](Call& c) { c.plan.shape.keys = 9; },
     "the plan is for batch 2, kv_heads 2, queries 6, keys 9; the tensors have 2, 2, 6, 8"},
};

const std::vector<Case> kBackwardCases = {
    {"dout", [](Call& c) { c.saved.dout.tokens = 5; },
     "dout has shape [2, 4, 5, 64], q has [2, 4, 6, 64]; they must be equal"},
    {"no lse", [](Call& c) { c.saved.lse = nullptr; }, "lse has no memory; the forward pass must have kept it"},
    {"dk shape", [](Call& c) { c.grads.dk.heads = 4; },
     "dk has shape [2, 4, 8, 64], k has [2, 2, 8, 64]; they must be equal"},
    {"dq over q", [](Call& c) { c.grads.dq.data = c.tensors.q.data.data(); },
     "dq shares memory with q; it must lie apart"},
    {"dk over o", [](Call& c) { c.grads.dk.data = c.memory.o.data.data(); },
     "dk shares memory with o; it must lie apart"},
    {"dk over dv", [](Call& c) { c.grads.dk.data = c.grads.dv.data; }, "dk shares memory with dv; it must lie apart"},
    {"dv over lse", [](Call& c) { c.saved.lse = c.grads.dv.data; }, "dv shares memory with lse; it must lie apart"},
    {"folded dv", [](Call& c) { c.grads.dv.head_stride = 0; },
     "dv has strides 1024, 0, 64 for dimension 64; its elements must lie apart"},
    {"heads over tokens", [](Call& c) { c.grads.dv.head_stride = 64; },
     "dv has strides 1024, 64, 64 for dimension 64; its elements must lie apart"},
};

TEST(Checks, ForwardSaysWhatIsWrongAndWritesNothing) {
  for (const auto& cases : {kInputCases, kForwardCases}) {
    for (const Case& c : cases) {
      SCOPED_TRACE(c.name);
      Call call;
      c.spoil(call);
      const Solution<float> before = call.memory;
      EXPECT_EQ(error_of([&] { attention_forward(call.in, call.plan, call.out); }), "attention_forward: " + c.says);
      if (std::string(c.name) != "plan of another shape") {
        EXPECT_EQ(error_of([&] { attention_forward(call.in, call.options, call.out); }),
                  "attention_forward: " + c.says);
      }
      EXPECT_TRUE(same_bits(call.memory, before));
    }
  }
}

TEST(Checks, BackwardSaysWhatIsWrongAndWritesNothing) {
  for (const auto& cases : {kInputCases, kBackwardCases}) {
    for (const Case& c : cases) {
      SCOPED_TRACE(c.name);
      Call call;
      c.spoil(call);
      const Solution<float> before = call.memory;
      EXPECT_EQ(error_of([&] { attention_backward(call.in, call.plan, call.saved, call.grads); }),
                "attention_backward: " + c.says);
      EXPECT_TRUE(same_bits(call.memory, before));
    }
  }
}

TEST(Checks, MakePlanSaysWhatIsWrong) {
  for (const Case& c : kInputCases) {
    SCOPED_TRACE(c.name);
    Call call;
    c.spoil(call);
    EXPECT_EQ(error_of([&] { make_plan(call.in.q, call.in.k, call.options, call.in.scale); }), "make_plan: " + c.says);
  }
  Call call;
  call.options.pattern = Pattern::kHsa;
  EXPECT_EQ(error_of([&] { make_plan_into(call.in.q, call.in.k, call.options, {}, nullptr); }),
            "make_plan: blocks has no memory; the plan needs 1560 ids");
}

TEST(Checks, PlansThatDoNotFitAreRefused) {
  Call call;
  call.problem.options.pattern = Pattern::kHsa;
  call.plan = plan_of(call.problem, call.tensors);
  call.plan.blocks[2] = 0;
  EXPECT_NE(error_of([&] { attention_forward(call.in, call.plan, call.out); }), "no InvalidArgument");
  const PlanView without_lists(call.plan.shape, nullptr);
  EXPECT_EQ(error_of([&] { attention_forward(call.in, without_lists, call.out); }),
            "plan: it has no lists; its shape needs 65 blocks for each position");
}

struct OptionCase {
  std::function<void(HsaOptions&)> spoil;
  const char* says;
};

const OptionCase kOptionCases[] = {
    {[](HsaOptions& o) { o.window = -1; }, "options: window is -1; it must be from 0 to 2^40"},
    {[](HsaOptions& o) { o.top_k = 0; }, "options: top_k is 0; it must be from 1 to 2^40"},
    {[](HsaOptions& o) { o.candidates = -5; }, "options: candidates is -5; it must be from 0 to 2^40"},
    {[](HsaOptions& o) { o.sinks = -1; }, "options: sinks is -1; it must be from 0 to 2^40"},
    {[](HsaOptions& o) { o.top_nodes = 0; }, "options: top_nodes is 0; it must be from 1 to 2^40"},
    {[](HsaOptions& o) { o.beam = -1; }, "options: beam is -1; it must be from 0 to 2^40"},
    {[](HsaOptions& o) { o.dense_until = -2; }, "options: dense_until is -2; it must be from -1 to 2^40"},
    {[](HsaOptions& o) { o.head_top_k = {8, 0}; }, "options: a head's top_k is 0; it must be from 1 to 2^40"},
    {[](HsaOptions& o) { o.head_top_k = {8, 24}, o.tail = 0.5, o.candidates = 16; },
     "options: tail is 0.5; it is what rescoring rejects, so candidates, 16, must be above top_k, 24"},
    {[](HsaOptions& o) { o.top_k = INT64_MAX; }, "options: top_k is 9223372036854775807; it must be from 1 to 2^40"},
    {[](HsaOptions& o) { o.block = 0; }, "options: block is 0; it must be a power of two from 1 to 64"},
    {[](HsaOptions& o) { o.block = 12; }, "options: block is 12; it must be a power of two from 1 to 64"},
    {[](HsaOptions& o) { o.block = 128; }, "options: block is 128; it must be a power of two from 1 to 64"},
    {[](HsaOptions& o) { o.levels = 7; }, "options: levels is 7; it must be 0 (auto) or 1 to 6"},
    {[](HsaOptions& o) { o.min_top_k = 0; }, "options: min_top_k is 0; it must be from 1 to 2^40"},
    {[](HsaOptions& o) { o.mass = -0.5; },
     "options: mass is -0.5; it must be 0 (off) or a share from a millionth to 1"},
    {[](HsaOptions& o) { o.mass = 95; }, "options: mass is 95; it must be 0 (off) or a share from a millionth to 1"},
    {[](HsaOptions& o) { o.mass = std::numeric_limits<double>::quiet_NaN(); },
     "options: mass is nan; it must be 0 (off) or a share from a millionth to 1"},
    {[](HsaOptions& o) { o.stride = -8; }, "options: stride is -8; it must be from 0 to 2^40"},
    {[](HsaOptions& o) { o.dilation = 0; }, "options: dilation is 0; it must be from 1 to 2^40"},
    {[](HsaOptions& o) { o.node = 4; },
     "options: node is 4, block is 8; node must be 0 (block) or a power of two from "
     "block to 64"},
    {[](HsaOptions& o) { o.node = 24; },
     "options: node is 24, block is 8; node must be 0 (block) or a power of two "
     "from block to 64"},
    {[](HsaOptions& o) { o.node = 16, o.candidates = 512; },
     "options: node is 16, block is 8; to keep single blocks of a node takes rescoring, and candidates, 512, must be "
     "above top_k, 512"},
    {[](HsaOptions& o) { o.node = 16, o.far_field = true; },
     "options: node is 16, block is 8, and the far field is on; it is made of whole nodes, so node must be 0 or block"},
    {[](HsaOptions& o) { o.tail = 1.5; }, "options: tail is 1.5; it must be 0 (off) or a share from a millionth to 1"},
    {[](HsaOptions& o) { o.tail = 0.5, o.candidates = 512; },
     "options: tail is 0.5; it is what rescoring rejects, so candidates, 512, must be above top_k, 512"},
    {[](HsaOptions& o) { o.tail = 0.5, o.far_field = true; },
     "options: tail is 0.5, and the far field is on; what is rejected would be seen twice, so one of them must be off"},
    {[](HsaOptions& o) { o.parts = 3; }, "options: parts is 3; it must be a power of two from 1 to 64"},
    {[](HsaOptions& o) { o.parts = 16; },
     "options: parts is 16, node is 8; a part is at least one token, so parts must be at most node"},
    {[](HsaOptions& o) { o.pattern_seed = -1; }, "options: pattern_seed is -1; it must be from 0 to 2^40"},
    {[](HsaOptions& o) { o.levels = -1; }, "options: levels is -1; it must be 0 (auto) or 1 to 6"},
};

TEST(Checks, OptionsSayWhatIsWrong) {
  for (const OptionCase& c : kOptionCases) {
    SCOPED_TRACE(c.says);
    Call call;
    call.options = {};
    c.spoil(call.options.hsa);
    EXPECT_EQ(error_of([&] { check_options(call.options); }), c.says);
    EXPECT_EQ(error_of([&] { make_plan(call.in.q, call.in.k, call.options); }), c.says);
    EXPECT_EQ(error_of([&] { attention_forward(call.in, call.options, call.out); }), c.says);
  }
  EXPECT_EQ(error_of([] { pattern_from_name("fulll"); }),
            "options: pattern is 'fulll'; it must be one of full, local, hsa, sparse_transformer, "
            "sparse_transformer_fixed, longformer, bigbird");
  EXPECT_EQ(error_of([] { pooling_from_name("sum"); }), "options: pooling is 'sum'; it must be one of mean, max");
}

TEST(Checks, ImpossibleSizesAreRefusedBeforeMemoryIsAsked) {
  EXPECT_EQ(error_of([] { plan_shape({}, DType::kFloat32, 1, 1, 1, Index{1} << 40); }),
            "plan: 1099511627776 keys in blocks of 8 are 137438953472 blocks; there may be at most 2^33 keys and "
            "2^30 blocks");
  EXPECT_EQ(error_of([] {
              PlanOptions wide;
              wide.hsa.block = 64;
              plan_shape(wide, DType::kFloat32, 1, 1, 1, (Index{1} << 33) + 1);
            }),
            "plan: 8589934593 keys in blocks of 64 are 134217729 blocks; there may be at most 2^33 keys and 2^30 "
            "blocks");
  EXPECT_EQ(error_of([] {
              PlanOptions greedy;
              greedy.hsa.top_k = Index{1} << 40;
              plan_shape(greedy, DType::kFloat32, 1, 1, Index{1} << 27,
                         4);  // 2^64 ids and a few: as 64 bits, only the few
            }),
            "plan: 1 * 1 * 134217728 lists of 137438953473 blocks; their product must be below 2^56");
  PlanOptions by_head;
  by_head.hsa.head_top_k = {8, 16};
  EXPECT_EQ(error_of([&] { plan_shape(by_head, DType::kFloat32, 1, 3, 1, 4); }),
            "options: head_top_k has 2 numbers; there must be one for each key/value head, 3");
  EXPECT_EQ(error_of([] { plan_shape({}, DType::kFloat32, 1, 1, -1, 4); }),
            "plan: sizes are batch 1, kv_heads 1, queries -1, keys 4; none may be negative");
}

#if !defined(__SANITIZE_ADDRESS__)  // which stops the program instead
TEST(Checks, ListsTooLargeForMemorySaySo) {
  // 2^40 queries share one row of memory by a stride of 0; their lists would need 2^48 bytes.
  Call call;
  ConstView q = call.in.q;
  q.tokens = Index{1} << 40;
  q.token_stride = 0;
  call.options.pattern = Pattern::kHsa;
  EXPECT_THROW(make_plan(q, call.in.k, call.options), OutOfMemory);
}
#endif

struct EmptyCase {
  const char* name;
  Index batch, heads, kv_heads, queries, keys;
};

constexpr EmptyCase kEmpty[] = {{"batch 0", 0, 4, 2, 6, 8},       {"no heads", 2, 0, 0, 6, 8},
                                {"no queries", 2, 4, 2, 0, 8},    {"no keys", 2, 4, 2, 6, 0},
                                {"nothing", 0, 0, 0, 0, 0},       {"no tokens", 1, 1, 1, 0, 0},
                                {"no query heads", 2, 0, 2, 6, 8}};

TEST(Checks, EmptyCallsGiveEmptyResults) {
  for (const EmptyCase& c : kEmpty) {
    for (const Pattern pattern : {Pattern::kFull, Pattern::kHsa, Pattern::kBigBird}) {
      SCOPED_TRACE(c.name);
      Problem p{.name = c.name,
                .batch = c.batch,
                .heads = c.heads,
                .kv_heads = c.kv_heads,
                .queries = c.queries,
                .keys = c.keys,
                .dim = 16};
      p.options.pattern = pattern;
      const Tensors<float> in = random_tensors(p, 1);
      const Plan plan = plan_of(p, in);
      EXPECT_EQ(covers_each_token_once(plan), "");
      const Solution<float> out = solve(p, in, plan);
      const auto zero = [](const float& x, Index, Index, Index, Index) { ASSERT_EQ(x, 0); };
      out.o.for_each(zero);
      out.dk.for_each(zero);
      out.dv.for_each(zero);
      for (const float lse : out.lse) EXPECT_EQ(lse, -std::numeric_limits<float>::infinity());
      EXPECT_FALSE(describe(PlanView(plan)).empty());
    }
  }
}

}  // namespace
}  // namespace hsattn
