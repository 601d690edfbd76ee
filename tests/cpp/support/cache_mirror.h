// A cache beside the tokens that its sequences should hold.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "support/cached.h"

namespace hsattn::testing {

// A stock of `keys` tokens and how they are attended.
inline Problem random_cache_problem(Random& random, Index keys) {
  Problem p{.name = "random", .queries = keys, .keys = keys};
  p.options = selecting_options(random, true);
  p.options.hsa.sinks = uniform(random, 0, 9);
  const HsaOptions& o = p.options.hsa;
  if (!o.far_field && o.candidates > o.top_k) p.options.hsa.tail = one_of(random, {0.0, 0.5});
  if (uniform(random, 0, 9) == 0) p.options.pattern = one_of(random, {Pattern::kFull, Pattern::kLocal});
  p.kv_heads = uniform(random, 1, 2);
  p.heads = p.kv_heads * one_of<Index>(random, {1, 3, 8});
  p.dim = one_of<Index>(random, {8, 24, 64, 80});
  p.layout = one_of(random, {Layout::kContiguous, Layout::kTokenMajor, Layout::kPadded});
  choose_head_budgets(random, p);
  return p;
}

// Sequences of a cache and the tokens that they should hold.
template <class T>
struct CacheMirror {
  Problem p;
  const Tensors<T>& stock;
  KeyValueCache cache;
  std::vector<Tokens> sequences;

  CacheMirror(const Problem& problem, const Tensors<T>& tokens, Index count, Index page)
      : p(problem),
        stock(tokens),
        cache(cache_options<T>(p, page), count),
        sequences(static_cast<std::size_t>(count)) {}

  void append(Index i, Index first, Index count) {
    const Tokens more = range_of_tokens(first, first + count);
    sequences[i].insert(sequences[i].end(), more.begin(), more.end());
    append_rest(p, stock, sequences[i], cache, i);
  }
  void crop(Index i, Index length) {
    sequences[i].resize(static_cast<std::size_t>(length));
    cache.crop(i, length);
  }
  void fork(Index i) {
    ASSERT_EQ(cache.fork(i), std::ssize(sequences));
    const Tokens tokens = sequences[i];
    sequences.push_back(tokens);
  }
  void reorder(const std::vector<Index>& parents) {
    std::vector<Tokens> children;
    for (const Index parent : parents) children.push_back(sequences[parent]);
    cache.reorder(parents);
    sequences = std::move(children);
  }
  void save_and_load() {
    const std::string path = ::testing::TempDir() + "hsattn_cache_test" + std::to_string(getpid());
    cache.save(path);
    cache = KeyValueCache::load(path);
    ASSERT_EQ(std::remove(path.c_str()), 0);
  }
  // All sequences, the last `queries` of each.
  void check(Index queries) {
    ASSERT_EQ(cache.sequences(), std::ssize(sequences));
    for (Index i = 0; i < cache.sequences(); ++i) {
      const Index length = std::ssize(sequences[i]), some = std::min(queries, length);
      SCOPED_TRACE(concat("sequence ", i, " of ", length, " tokens"));
      ASSERT_EQ(cache.length(i), length);
      const Answer<T> right = answer_of_whole(p, stock, sequences[i], some);
      ASSERT_TRUE(answer_of_cache(p, stock, sequences[i], some, cache, i) == right);
    }
  }
};

}  // namespace hsattn::testing
