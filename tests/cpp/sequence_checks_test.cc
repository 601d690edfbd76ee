// Which sequences follow from offsets and masks, and which calls are refused.
#include <gtest/gtest.h>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::Problem;
using testing::Solution;
using testing::Tensors;

using Sequences = std::vector<Sequence>;

TEST(SequenceChecks, PackedOnesFollowFromOffsets) {
  const std::vector<Index> queries{0, 2, 2, 5}, keys{0, 4, 6, 9};
  EXPECT_EQ(packed_sequences(queries, keys),
            (Sequences{{0, {0, 2}, {0, 4}}, {0, {2, 2}, {4, 6}}, {0, {2, 5}, {6, 9}}}));
  EXPECT_TRUE(packed_sequences(std::vector<Index>{0}, std::vector<Index>{0}).empty());
}

TEST(SequenceChecks, PaddedOnesFollowFromRealKeys) {
  const std::vector<Range> real{{0, 8}, {3, 8}, {0, 6}, {0, 0}};
  EXPECT_EQ(padded_sequences(real, 8, 8),
            (Sequences{{0, {0, 8}, {0, 8}}, {1, {3, 8}, {3, 8}}, {2, {0, 6}, {0, 6}}, {3, {0, 0}, {0, 0}}}));
  // Three queries are the keys 5, 6 and 7.
  EXPECT_EQ(padded_sequences(real, 3, 8),
            (Sequences{{0, {0, 3}, {0, 8}}, {1, {0, 3}, {3, 8}}, {2, {0, 1}, {0, 6}}, {3, {0, 0}, {0, 0}}}));
}

template <class Run>
std::string error_of(Run run) {
  try {
    run();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no InvalidArgument";
}

TEST(SequenceChecks, OffsetsThatCannotBeAreRefused) {
  using Offsets = std::vector<Index>;
  const struct {
    Offsets queries, keys;
    const char* says;
  } cases[] = {
      {{}, {0}, "the offsets of queries are empty; they start with 0"},
      {{0, 3}, {}, "the offsets of keys are empty; they start with 0"},
      {{3, 5, 4}, {0, 3}, "the offsets of queries start with 3; they must start with 0"},
      {{0, 3}, {-1, 3}, "the offsets of keys start with -1; they must start with 0"},
      {{0, 5, 3}, {0, 5, 8}, "offset 2 of queries is 3, after 5; offsets must not decrease"},
      {{0, 5}, {0, 5, 8}, "there are 3 offsets of keys and 2 of queries; there must be as many"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(error_of([&] { packed_sequences(c.queries, c.keys); }), std::string("packed_sequences: ") + c.says);
  }
  const std::vector<Range> real{{0, 4}, {2, 9}};
  EXPECT_EQ(error_of([&] { padded_sequences(real, 4, 8); }),
            "padded_sequences: sequence 1 has keys [2, 9); they must lie within the 8 that there are");
  EXPECT_EQ(error_of([&] { padded_sequences(real, 9, 8); }),
            "padded_sequences: there are 9 queries and 8 keys; the queries must be the last of the keys");
}

TEST(SequenceChecks, CallsThatCannotBeAreRefusedAndWriteNothing) {
  const struct {
    Sequences sequences;
    const char* says;
    bool forward_too;
  } cases[] = {
      {{{2, {0, 3}, {0, 3}}}, "sequence 0 is in batch element 2; there are 2", true},
      {{{-1, {0, 3}, {0, 3}}}, "sequence 0 is in batch element -1; there are 2", true},
      {{{0, {0, 3}, {0, 3}}, {0, {3, 7}, {3, 7}}},
       "sequence 1 has queries [3, 7); they must lie within the 6 that there are",
       true},
      {{{0, {0, 3}, {0, 9}}}, "sequence 0 has keys [0, 9); they must lie within the 8 that there are", true},
      {{{0, {2, 1}, {0, 3}}}, "sequence 0 has queries [2, 1); they must lie within the 6 that there are", true},
      {{{0, {-1, 1}, {0, 3}}}, "sequence 0 has queries [-1, 1); they must lie within the 6 that there are", true},
      {{{1, {2, 4}, {0, 2}}, {1, {0, 3}, {2, 4}}},
       "sequences 0 and 1 share queries of batch element 1 before token 3; each must belong to one at most",
       true},
      {{{1, {0, 2}, {0, 4}}, {0, {0, 2}, {0, 4}}, {1, {3, 5}, {3, 8}}},
       "sequences 2 and 0 share keys of batch element 1 before token 4; each must belong to one at most",
       false},
  };
  Problem p{.name = "call", .batch = 2, .heads = 2, .kv_heads = 1, .queries = 6, .keys = 8, .dim = 8};
  p.options.pattern = Pattern::kFull;
  const Tensors<float> in = random_tensors(p, 1);
  const Sequences right{{0, {0, 6}, {0, 8}}};
  Solution<float> out{random_tensors(p, 2).q, random_tensors(p, 3).q, random_tensors(p, 4).k, random_tensors(p, 5).k,
                      std::vector<float>(static_cast<std::size_t>(p.batch * p.heads * p.queries), 7)};
  const Solution<float> before = out;
  const AttentionOutputs outputs{out.o.view(), out.lse.data()};
  const AttentionSaved saved{in.dout.view(), as_const(out.o.view()), out.lse.data()};
  const AttentionGradients grads{out.dq.view(), out.dk.view(), out.dv.view()};
  const auto forward = [&](const Sequences& s) {
    return error_of([&] { attention_forward(in.inputs(p), s, p.options, outputs); });
  };
  const auto backward = [&](const Sequences& s, std::span<const PlanView> plans) {
    return error_of([&] { attention_backward(in.inputs(p), s, plans, saved, grads); });
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.says);
    if (c.forward_too) {
      EXPECT_EQ(forward(c.sequences), std::string("attention_forward: ") + c.says);
    }
    std::vector<PlanShape> shapes;
    for (const Sequence& s : c.sequences) {
      shapes.push_back(
          plan_shape(p.options, DType::kFloat32, 1, 1, std::max<Index>(0, s.queries.size()), s.keys.size()));
    }
    EXPECT_EQ(backward(c.sequences, plans_of(shapes, nullptr)), std::string("attention_backward: ") + c.says);
    EXPECT_TRUE(same_bits(out, before));
  }
  EXPECT_EQ(backward(right, {}), "attention_backward: there are 0 plans for 1 sequences; each needs one");
  const PlanView other(plan_shape(p.options, DType::kFloat32, 1, 1, 6, 7), nullptr);
  EXPECT_EQ(backward(right, {&other, 1}),
            "attention_backward: the plan is for batch 1, kv_heads 1, queries 6, keys 7; the tensors have 1, 1, 6, 8 "
            "(sequence 0)");
  EXPECT_TRUE(same_bits(out, before));
  p.options.pattern = Pattern::kHsa;
  EXPECT_EQ(error_of([&] { make_plans_into(in.q.view(), in.k.view(), right, p.options, {}, nullptr); }),
            "make_plans: blocks has no memory; the plan needs 390 ids");
  std::vector<std::int32_t> lists(2 * 390, -7);
  const Sequences twice{{0, {0, 6}, {0, 8}}, {0, {5, 6}, {0, 8}}};
  EXPECT_EQ(error_of([&] { make_plans_into(in.q.view(), in.k.view(), twice, p.options, {}, lists.data()); }),
            "make_plans: sequences 1 and 0 share queries of batch element 0 before token 6; each must belong to one at "
            "most");
}

}  // namespace
}  // namespace hsattn
