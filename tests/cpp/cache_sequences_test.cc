// Sequences of one cache that are cropped, forked, reordered, saved and attended in batches: each as if alone.
#include <gtest/gtest.h>

#include "support/cache_mirror.h"

namespace hsattn {
namespace {

using testing::Answer;
using testing::cache_options;
using testing::CacheMirror;
using testing::Layout;
using testing::one_of;
using testing::Problem;
using testing::Random;
using testing::random_cache_problem;
using testing::Tensors;
using testing::Tokens;
using testing::type_of;
using testing::uniform;

template <class T>
std::string random_step(CacheMirror<T>& m, Random& random) {
  const Index count = std::ssize(m.sequences), i = uniform(random, 0, count - 1), length = std::ssize(m.sequences[i]);
  switch (uniform(random, 0, 7)) {
    case 0:
      m.crop(i, uniform(random, 0, length));
      return concat("crop ", i);
    case 1:
      m.crop(i, std::max<Index>(0, length - uniform(random, 1, 9)));
      return concat("crop a few of ", i);
    case 2:
      if (count < 4) m.fork(i);
      return concat("fork ", i);
    case 3: {
      std::vector<Index> parents;
      for (Index n = uniform(random, 1, 4); n > 0; --n) parents.push_back(uniform(random, 0, count - 1));
      m.reorder(parents);
      return "reorder";
    }
    case 4:
      if (uniform(random, 0, 3) == 0) m.save_and_load();
      return "save and load";
    default: {
      const Index most = std::min<Index>(m.stock.k.tokens, 300 - std::min<Index>(300, length));
      const Index tokens = std::min(most, one_of<Index>(random, {1, 1, 2, 7, 8, 63, 64, 65, 200}));
      m.append(i, uniform(random, 0, m.stock.k.tokens - tokens), tokens);
      return concat("append ", tokens, " to ", i);
    }
  }
}

TEST(Cache, StaysRightAfterCropForkReorderAndLoad) {
  for (int seed = 0; seed < 12; ++seed) {
    Random random(static_cast<std::uint64_t>(seed) + 900);
    const Problem p = random_cache_problem(random, 300);
    SCOPED_TRACE(describe(p) + concat(", seed ", seed));
    testing::with_stored_tensors(p, static_cast<std::uint64_t>(seed), [&]<class T>(const Tensors<T>& stock) {
      CacheMirror<T> m(p, stock, 2, 64);
      for (int step = 0; step < 40; ++step) {
        SCOPED_TRACE(concat("step ", step, ": ", random_step(m, random)));
        m.check(uniform(random, 1, 3));
        if (HasFatalFailure()) return;
      }
    });
    if (HasFatalFailure()) return;
  }
}

// Every length around which a unit, block, node or page begins.
TEST(Cache, CropsAndForksAtEveryBorder) {
  Problem p{.name = "borders", .heads = 3, .queries = 300, .keys = 300, .dim = 24};
  p.options.hsa = testing::smallest_budgets(false);
  testing::with_stored_tensors(p, 5, [&]<class T>(const Tensors<T>& stock) {
    for (const Index border : {1, 2, 4, 8, 16, 32, 64, 128, 192, 256}) {
      for (Index length = border - 1; length <= border + 1; ++length) {
        SCOPED_TRACE(concat("length ", length));
        CacheMirror<T> m(p, stock, 1, 64);
        m.append(0, 0, 300);
        m.fork(0);
        m.crop(0, length);
        m.append(0, 10, 1);  // other tokens than before
        m.check(1);
        m.append(0, 100, 150);
        m.append(1, 20, 9);
        m.check(20);
        if (HasFatalFailure()) return;
      }
    }
  });
}

TEST(Cache, BatchesOfDifferentLengthsEqualEachSequenceAlone) {
  Random random(72);
  for (int i = 0; i < 20; ++i) {
    const Problem p = random_cache_problem(random, 300);
    SCOPED_TRACE(describe(p) + concat(", seed ", i));
    testing::with_stored_tensors(p, 5, [&]<class T>(const Tensors<T>& stock) {
      CacheMirror<T> m(p, stock, 0, 64);
      m.cache = KeyValueCache(cache_options<T>(p, 64), 3);
      m.sequences.resize(3);
      // One has a short past, which it attends whole, in memory that a search has just used.
      for (Index s = 0; s < 3; ++s)
        m.append(s, uniform(random, 0, 50), uniform(random, s == 1 ? 2 : 100, s == 1 ? 20 : 250));
      const std::vector<Index> order{2, 0, 1, 0};  // one of them twice
      testing::Tensor<T> q(4, p.heads, 2, p.dim);
      Answer<T> all(p, 4, 2);
      for (Index b = 0; b < 4; ++b) {
        const Tokens& tokens = m.sequences[order[b]];
        const auto own = picked(stock.q, tokens, std::ssize(tokens) - 2, Layout::kContiguous);
        std::copy(own.data.begin(), own.data.end(), q.row(b, 0, 0));
      }
      for (const int threads : {1, 2}) {
        const auto pool = make_thread_pool(threads);
        m.cache.attend(order, as_const(q.view()), p.options, p.scale, all.outputs(), all.lists.data(), *pool);
        for (Index b = 0; b < 4; ++b) {
          const Answer<T> right = answer_of_whole(p, stock, m.sequences[order[b]], 2);
          EXPECT_TRUE(testing::same_bits(all.o.row(b, 0, 0), right.o.data.data(), std::ssize(right.o.data)));
          EXPECT_TRUE(
              testing::same_bits(all.lse.data() + b * std::ssize(right.lse), right.lse.data(), std::ssize(right.lse)));
          EXPECT_TRUE(testing::same_bits(all.lists.data() + b * std::ssize(right.lists), right.lists.data(),
                                         std::ssize(right.lists)));
        }
      }
    });
  }
}

// What was cropped, and what a position does not see, may hold anything.
TEST(Cache, NaNThatIsNotSeenHurtsNobody) {
  Problem p{.name = "not finite", .heads = 3, .queries = 300, .keys = 300, .dim = 24};
  for (const bool far_field : {false, true}) {
    p.options.hsa = testing::smallest_budgets(far_field);
    testing::with_stored_tensors(p, 5, [&]<class T>(Tensors<T> stock) {
      for (Index t = 250; t < 260; ++t) {
        for (T* row : {stock.k.row(0, 0, t), stock.v.row(0, 0, t)}) {
          std::fill_n(row, p.dim, static_cast<T>(std::numeric_limits<float>::quiet_NaN()));
        }
      }
      CacheMirror<T> m(p, stock, 1, 64);
      m.append(0, 0, 203);
      m.append(0, 250, 9);
      m.crop(0, 204);
      m.crop(0, 203);
      m.check(3);
      m.append(0, 203, 2);
      m.check(3);
      m.append(0, 210, 40);
      m.check(40);
    });
  }
}

TEST(Cache, GrowsByPagesThatForksShare) {
  Problem p{.name = "pages", .heads = 2, .kv_heads = 2, .queries = 2048, .keys = 2048, .dim = 64};
  p.options.pattern = Pattern::kFull;  // no pyramid: pages of tokens alone
  testing::with_stored_tensors(p, 5, [&]<class T>(const Tensors<T>& stock) {
    CacheMirror<T> m(p, stock, 1, 256);
    m.append(0, 0, 1);
    const Index page = m.cache.bytes();
    EXPECT_GE(page, 2 * 2 * 256 * 64 * size_of(type_of<T>()));
    for (const auto& [length, pages] : {std::pair<Index, Index>{256, 1}, {257, 2}, {512, 2}, {1300, 6}}) {
      m.append(0, 0, length - m.cache.length(0));
      EXPECT_EQ(m.cache.bytes(), pages * page) << length;
    }
    m.fork(0);
    m.fork(1);
    EXPECT_EQ(m.cache.bytes(), 6 * page);  // nothing is copied
    m.append(1, 5, 1);
    EXPECT_EQ(m.cache.bytes(), 7 * page);  // but the last page, when one of them writes
    m.append(1, 6, 700);
    EXPECT_EQ(m.cache.bytes(), 9 * page);
    m.crop(1, 1280);
    EXPECT_EQ(m.cache.bytes(), 6 * page);
    m.append(1, 7, 1);
    m.check(1);
    m.reorder({0});
    EXPECT_EQ(m.cache.bytes(), 6 * page);
    m.crop(0, 0);
    EXPECT_EQ(m.cache.bytes(), 0);
  });
}

}  // namespace
}  // namespace hsattn
