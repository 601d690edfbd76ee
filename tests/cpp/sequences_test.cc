// Sequences that share tensors: each gets the bits that it gets alone, and nothing passes between them. A call whose
// blocks straddle sequences must be caught.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <type_traits>

#include "support/problem.h"

namespace hsattn {
namespace {

using testing::LseOf;
using testing::one_of;
using testing::Problem;
using testing::Random;
using testing::Solution;
using testing::Tensor;
using testing::Tensors;
using testing::uniform;

using Sequences = std::vector<Sequence>;

template <class T>
using Solve = std::function<Solution<T>(const Problem&, const Tensors<T>&, const Sequences&)>;

// Forward and backward of the public interface, into outputs full of NaN. Forward with its own lists must repeat
// itself.
template <class T>
Solution<T> solve_each(const Problem& p, const Tensors<T>& in, const Sequences& sequences, Executor& executor) {
  const auto shapes = plan_shapes(p.options, DType::kFloat32, p.kv_heads, sequences);
  std::vector<std::int32_t> kept(static_cast<std::size_t>(list_elements(shapes)), -7);
  const auto plans = plans_of(shapes, kept.data());
  Solution<T> out;
  const auto new_outputs = [&] {
    out.o = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
    out.lse.assign(static_cast<std::size_t>(p.batch * p.heads * p.queries), std::numeric_limits<float>::quiet_NaN());
    return AttentionOutputs{out.o.view(), out.lse.data()};
  };
  attention_forward(in.inputs(p), sequences, p.options, new_outputs(), kept.data(), executor);
  const Solution<T> searched = out;
  attention_forward(in.inputs(p), sequences, plans, new_outputs(), executor);
  EXPECT_TRUE(same_bits(searched, out)) << "with and without plans";

  std::vector<std::int32_t> planned(kept.size(), -7);
  make_plans_into(in.q.view(), in.k.view(), sequences, p.options, p.scale, planned.data(), executor);
  EXPECT_EQ(planned, kept);

  out.dq = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  out.dk = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  out.dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  const AttentionSaved saved{in.dout.view(), as_const(out.o.view()), out.lse.data()};
  attention_backward(in.inputs(p), sequences, plans, saved, {out.dq.view(), out.dk.view(), out.dv.view()}, executor);
  EXPECT_TRUE(padding_is_untouched(out.o) && padding_is_untouched(out.dq) && padding_is_untouched(out.dk) &&
              padding_is_untouched(out.dv));
  return out;
}

template <class T>
Solution<T> honest(const Problem& p, const Tensors<T>& in, const Sequences& sequences) {
  return solve_each(p, in, sequences, serial_executor());
}

// The double: blocks are those of the buffer, so a sequence's first block begins before it does.
template <class T>
Solution<T> straddling(const Problem& p, const Tensors<T>& in, const Sequences& sequences) {
  Solution<T> out = honest(p, in, sequences);
  const PlanShape rules = plan_shape(p.options, DType::kFloat32, 1, p.kv_heads, 0, 0);
  for (const Sequence& s : sequences) {
    Sequence wider = s;
    wider.keys.begin -= wider.keys.begin % rules.block;
    const Solution<T> one = honest(p, in, {wider});
    const auto take = [&](Tensor<T>& to, const Tensor<T>& from, Range tokens) {
      to.for_each([&](T& x, Index b, Index h, Index t, Index c) {
        if (b == s.batch && tokens.contains(t)) x = from.row(b, h, t)[c];
      });
    };
    take(out.o, one.o, s.queries);
    take(out.dq, one.dq, s.queries);
    take(out.dk, one.dk, s.keys);
    take(out.dv, one.dv, s.keys);
  }
  return out;
}

// Tokens of one batch element, as tensors of their own.
template <class T>
Tensor<T> part_of(const Tensor<T>& from, Index batch, Range tokens) {
  Tensor<T> to(1, from.heads, tokens.size(), from.dim);
  to.for_each([&](T& x, Index, Index h, Index t, Index c) { x = from.row(batch, h, tokens.begin + t)[c]; });
  return to;
}

template <class T>
Solution<T> part_of(const Solution<T>& from, const Problem& p, const Sequence& s) {
  Solution<T> to{part_of(from.o, s.batch, s.queries),
                 part_of(from.dq, s.batch, s.queries),
                 part_of(from.dk, s.batch, s.keys),
                 part_of(from.dv, s.batch, s.keys),
                 {}};
  for (Index h = 0; h < p.heads; ++h) {
    const auto* row = from.lse.data() + (s.batch * p.heads + h) * p.queries;
    to.lse.insert(to.lse.end(), row + s.queries.begin, row + s.queries.end);
  }
  return to;
}

template <class T>
Solution<T> solve_alone(const Problem& whole, const Tensors<T>& in, const Sequence& s) {
  Problem p = whole;
  p.batch = 1;
  p.queries = s.queries.size();
  p.keys = s.keys.size();
  p.layout = testing::Layout::kContiguous;
  const Tensors<T> own{part_of(in.q, s.batch, s.queries), part_of(in.k, s.batch, s.keys),
                       part_of(in.v, s.batch, s.keys), part_of(in.dout, s.batch, s.queries)};
  return solve(p, own, plan_of(p, own));
}

// Sequences whose bits are not those that they have alone.
template <class T>
Index strangers(const Problem& p, const Tensors<T>& in, const Sequences& sequences, const Solve<T>& solve) {
  const Solution<T> together = solve(p, in, sequences);
  return std::count_if(sequences.begin(), sequences.end(),
                       [&](const Sequence& s) { return !same_bits(part_of(together, p, s), solve_alone(p, in, s)); });
}

struct Ragged {
  Problem problem;
  Sequences sequences;
};

enum class Form { kPacked, kLeftPadded, kRightPadded };

// Lengths from nothing to several hundred, so that searches act; `chunked`: queries are the last of the keys.
Ragged random_ragged(Random& random, Form form, bool chunked) {
  Ragged r;
  Problem& p = r.problem;
  p.name = "ragged";
  p.layout = one_of(random, {testing::Layout::kContiguous, testing::Layout::kTokenMajor, testing::Layout::kPadded});
  p.options = testing::selecting_options(random, uniform(random, 0, 2) > 0);
  if (p.options.pattern == Pattern::kHsa) {
    p.options.pattern = one_of(random, {Pattern::kHsa, Pattern::kHsa, Pattern::kFull, Pattern::kLocal});
  }
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * one_of<Index>(random, {1, 3});
  p.dim = one_of<Index>(random, {8, 24, 40});
  choose_head_budgets(random, p);
  const Index count = uniform(random, 2, 5);
  std::vector<Index> keys{0}, queries{0};
  for (Index i = 0; i < count; ++i) {
    keys.push_back(keys.back() + one_of<Index>(random, {0, 1, 7, 61, 130, 203, 300}));
    const Index length = keys.back() - keys[keys.size() - 2];
    queries.push_back(queries.back() + (chunked ? uniform(random, 0, length) : length));
  }
  if (form == Form::kPacked) {
    r.sequences = packed_sequences(queries, keys);
    p.queries = queries.back() + 3;  // padding at the end
    p.keys = keys.back() + 2;
    return r;
  }
  p.batch = count;
  p.keys = 305;
  p.queries = chunked ? uniform(random, 1, p.keys) : p.keys;
  std::vector<Range> real;
  for (std::size_t i = 1; i < keys.size(); ++i) {
    const Index length = keys[i] - keys[i - 1];
    real.push_back(form == Form::kLeftPadded ? Range{p.keys - length, p.keys} : Range{0, length});
  }
  r.sequences = padded_sequences(real, p.queries, p.keys);
  return r;
}

template <class Visit>
void for_each_ragged(std::uint64_t seed, int repeats, Visit visit) {
  Random random(seed);
  for (int i = 0; i < repeats; ++i) {
    for (const Form form : {Form::kPacked, Form::kLeftPadded, Form::kRightPadded}) {
      const Ragged r = random_ragged(random, form, i % 2 == 1);
      SCOPED_TRACE(describe(r.problem) + concat(", repeat ", i, ", form ", static_cast<int>(form)));
      with_stored_tensors(r.problem, static_cast<std::uint64_t>(i),
                          [&](const auto& in) { visit(r.problem, r.sequences, in); });
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Sequences, EachHasTheBitsThatItHasAlone) {
  Index sequences_compared = 0, lists = 0;
  for_each_ragged(71, 14, [&]<class T>(const Problem& p, const Sequences& sequences, const Tensors<T>& in) {
    ASSERT_EQ(strangers<T>(p, in, sequences, honest<T>), 0);
    sequences_compared += std::ssize(sequences);
    for (const PlanShape& s : plan_shapes(p.options, DType::kFloat32, p.kv_heads, sequences)) {
      lists += s.slots() > 0 && s.queries > 0 && s.left(s.keys - 1).size() > s.slots();
    }
  });
  EXPECT_GT(sequences_compared, 100);
  EXPECT_GT(lists, 30);  // sequences whose last position has to choose
}

TEST(Sequences, InFloat64Too) {
  for_each_ragged(72, 2, [&](const Problem& p, const Sequences& sequences, const auto&) {
    ASSERT_EQ(strangers<double>(p, in_double(random_tensors(p, 1)), sequences, honest<double>), 0);
  });
}

TEST(Sequences, TheTestCatchesBlocksThatStraddle) {
  Index straddled = 0, caught = 0;
  for_each_ragged(73, 4, [&]<class T>(const Problem& p, const Sequences& sequences, const Tensors<T>& in) {
    const Index block = plan_shape(p.options, DType::kFloat32, 1, p.kv_heads, 0, 0).block;
    const Index expected = std::count_if(sequences.begin(), sequences.end(), [&](const Sequence& s) {
      return s.queries.size() > 0 && s.keys.begin % block != 0 && p.options.pattern != Pattern::kLocal;
    });
    straddled += expected;
    caught += expected > 0 ? strangers<T>(p, in, sequences, straddling<T>) : 0;
  });
  EXPECT_GT(straddled, 10);
  EXPECT_GE(caught, straddled);
}

// Sequences that move, though only tokens of sequence `changed` (or, if -1, of none) hold other values.
template <class T>
Index moved(const Problem& p, const Tensors<T>& in, const Sequences& sequences, Index changed, float value,
            const std::type_identity_t<Solve<T>>& solve) {
  Tensors<T> other = in;
  const auto owner = [&](Index b, Index t, Range Sequence::* side) {
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].batch == b && (sequences[i].*side).contains(t)) return static_cast<Index>(i);
    }
    return Index{-1};
  };
  for (const auto& [tensor, side] : {std::pair{&other.q, &Sequence::queries},
                                     {&other.dout, &Sequence::queries},
                                     {&other.k, &Sequence::keys},
                                     {&other.v, &Sequence::keys}}) {
    tensor->for_each([&, side = side](T& x, Index b, Index, Index t, Index) {
      if (owner(b, t, side) == changed) x = T(value);
    });
  }
  const Solution<T> before = solve(p, in, sequences), after = solve(p, other, sequences);
  Index count = 0;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (static_cast<Index>(i) == changed) continue;
    count += !same_bits(part_of(before, p, sequences[i]), part_of(after, p, sequences[i]));
  }
  return count;
}

TEST(Sequences, NothingPassesFromOneToAnother) {
  Random random(1);
  for_each_ragged(74, 6, [&]<class T>(const Problem& p, const Sequences& sequences, const Tensors<T>& in) {
    const Index changed = uniform(random, 0, std::ssize(sequences) - 1);
    for (const float value : {3.0F, std::numeric_limits<float>::quiet_NaN()}) {
      ASSERT_EQ(moved(p, in, sequences, changed, value, honest<T>), 0) << "sequence " << changed;
    }
  });
}

TEST(Sequences, TheTestCatchesALeakAcrossBlocks) {
  Problem p{.name = "leak", .queries = 75, .keys = 75, .dim = 16};
  p.options.pattern = Pattern::kFull;
  const std::vector<Index> offsets{0, 29, 75};
  const Sequences sequences = packed_sequences(offsets, offsets);
  with_stored_tensors(p, 1, [&]<class T>(const Tensors<T>& in) {
    EXPECT_EQ(moved(p, in, sequences, 0, 3, honest<T>), 0);
    EXPECT_EQ(moved(p, in, sequences, 0, 3, straddling<T>), 1);
  });
}

template <class T>
void expect_tokens_of_none(const Tensor<T>& tensor, const Sequences& sequences, Range Sequence::* side) {
  Index tokens_of_none = 0;
  tensor.for_each([&](const T& x, Index b, Index, Index t, Index) {
    const bool owned = std::any_of(sequences.begin(), sequences.end(),
                                   [&](const Sequence& s) { return s.batch == b && (s.*side).contains(t); });
    tokens_of_none += !owned;
    ASSERT_TRUE(owned || static_cast<float>(x) == 0) << "batch " << b << ", token " << t;
  });
  EXPECT_GT(tokens_of_none, 0);
}

TEST(Sequences, WhatPaddingHoldsMovesNothing) {
  for_each_ragged(75, 6, [&]<class T>(const Problem& p, const Sequences& sequences, const Tensors<T>& in) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    ASSERT_EQ(moved(p, in, sequences, -1, nan, honest<T>), 0);
    const Solution<T> out = honest(p, in, sequences);
    expect_tokens_of_none(out.dk, sequences, &Sequence::keys);
    expect_tokens_of_none(out.dv, sequences, &Sequence::keys);
    if (p.batch == 1 || p.queries == p.keys) {
      expect_tokens_of_none(out.o, sequences, &Sequence::queries);
      expect_tokens_of_none(out.dq, sequences, &Sequence::queries);
    }
    Index rows_of_none = p.batch * p.queries;
    for (const Sequence& s : sequences) rows_of_none -= s.queries.size();
    const auto without = std::count(out.lse.begin(), out.lse.end(), -std::numeric_limits<LseOf<T>>::infinity());
    ASSERT_GE(without, rows_of_none * p.heads);
    for (const auto lse : out.lse) ASSERT_FALSE(std::isnan(lse));
  });
}

TEST(Sequences, ThreadsDoNotShow) {
  const auto two = make_thread_pool(2), five = make_thread_pool(5);
  for_each_ragged(76, 6, [&]<class T>(const Problem& p, const Sequences& sequences, const Tensors<T>& in) {
    const Solution<T> right = honest(p, in, sequences);
    for (Executor* executor : {two.get(), five.get()}) {
      ASSERT_TRUE(same_bits(solve_each(p, in, sequences, *executor), right)) << executor->threads() << " threads";
    }
  });
}

TEST(Sequences, ManyShortOnesAndOneLong) {
  Random random(9);
  std::vector<Index> offsets{0};
  for (int i = 0; i < 150; ++i) offsets.push_back(offsets.back() + (i == 70 ? 600 : uniform(random, 0, 20)));
  const Sequences sequences = packed_sequences(offsets, offsets);
  Problem p{.name = "many", .heads = 2, .kv_heads = 1, .queries = offsets.back(), .keys = offsets.back(), .dim = 16};
  p.options = testing::searching_options(random, true);
  with_stored_tensors(p, 2, [&]<class T>(const Tensors<T>& in) {
    const auto pool = make_thread_pool(3);
    const Solve<T> threaded = [&](const Problem& problem, const Tensors<T>& tensors, const Sequences& s) {
      return solve_each(problem, tensors, s, *pool);
    };
    EXPECT_EQ(strangers<T>(p, in, sequences, honest<T>), 0);
    EXPECT_EQ(strangers<T>(p, in, sequences, threaded), 0);
  });
}

TEST(Sequences, OneThatHoldsAllIsAnOrdinaryCall) {
  Random random(10);
  Problem p{.name = "one", .heads = 2, .kv_heads = 2, .queries = 90, .keys = 130, .dim = 16};
  p.options = testing::searching_options(random, true);
  with_stored_tensors(p, 2, [&]<class T>(const Tensors<T>& in) {
    EXPECT_TRUE(same_bits(honest(p, in, {{0, {0, 90}, {0, 130}}}), solve(p, in, plan_of(p, in))));
  });
}

TEST(Sequences, NoSequenceAtAllGivesZeros) {
  Problem p{.name = "none", .batch = 2, .heads = 2, .kv_heads = 1, .queries = 5, .keys = 7, .dim = 8};
  const Solution<float> out = honest(p, random_tensors(p, 1), {});
  expect_tokens_of_none(out.o, {}, &Sequence::queries);
  expect_tokens_of_none(out.dq, {}, &Sequence::queries);
  expect_tokens_of_none(out.dk, {}, &Sequence::keys);
  for (const float lse : out.lse) EXPECT_EQ(lse, -std::numeric_limits<float>::infinity());
}

TEST(Sequences, QueriesWithoutKeysAndKeysWithoutQueries) {
  Problem p{.name = "empty sides", .queries = 6, .keys = 9, .dim = 8};
  const Sequences sequences{{0, {0, 3}, {4, 4}}, {0, {3, 3}, {0, 4}}, {0, {3, 6}, {4, 9}}, {0, {6, 6}, {9, 9}}};
  with_stored_tensors(p, 1, [&]<class T>(const Tensors<T>& in) {
    EXPECT_EQ(strangers<T>(p, in, sequences, honest<T>), 0);
    const Solution<T> out = honest(p, in, sequences);
    for (Index c = 0; c < p.dim; ++c) {
      EXPECT_EQ(static_cast<float>(out.o.row(0, 0, 2)[c]), 0);
      EXPECT_EQ(static_cast<float>(out.dk.row(0, 0, 3)[c]), 0);
    }
  });
}

TEST(Sequences, ForwardMayShareKeys) {
  Random random(11);
  Problem p{.name = "shared prefix", .heads = 2, .kv_heads = 1, .queries = 30, .keys = 200, .dim = 16};
  p.options = testing::searching_options(random, true);
  const Sequences sequences{{0, {0, 10}, {0, 150}}, {0, {10, 30}, {0, 200}}};
  with_stored_tensors(p, 2, [&]<class T>(const Tensors<T>& in) {
    Tensor<T> o(1, 2, 30, 16);
    attention_forward(in.inputs(p), sequences, p.options, {o.view()});
    for (const Sequence& s : sequences) {
      EXPECT_TRUE(same_bits(part_of(o, 0, s.queries), solve_alone(p, in, s).o));
    }
  });
}

}  // namespace
}  // namespace hsattn
