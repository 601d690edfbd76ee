// Sequences in tests of a cache: tokens picked from a stock, what attention_forward() gives for them, what a cache
// does.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "support/problem.h"

namespace hsattn::testing {

/// What attention gives for the last queries of some sequences.
template <class T>
struct Answer {
  Tensor<T> o;
  std::vector<float> lse;
  std::vector<std::int32_t> lists;

  Answer(const Problem& p, Index batch, Index queries)
      : o(batch, p.heads, queries, p.dim),
        lse(static_cast<std::size_t>(batch * p.heads * queries), std::numeric_limits<float>::quiet_NaN()),
        lists(static_cast<std::size_t>(batch * p.kv_heads * queries *
                                       plan_shape(p.options, DType::kFloat32, 1, p.kv_heads, 1, 1).slots()),
              -7) {}

  AttentionOutputs outputs() { return {o.view(), lse.data()}; }
  bool operator==(const Answer& b) const {
    return same_bits(o, b.o) && lists == b.lists && same_bits(lse.data(), b.lse.data(), std::ssize(lse));
  }
};

/// The tokens of one sequence: places in the stock.
using Tokens = std::vector<Index>;

inline Tokens range_of_tokens(Index begin, Index end) {
  Tokens tokens;
  for (Index t = begin; t < end; ++t) tokens.push_back(t);
  return tokens;
}

template <class T>
Tensor<T> picked(const Tensor<T>& stock, const Tokens& tokens, Index begin, Layout layout) {
  Tensor<T> to(1, stock.heads, std::ssize(tokens) - begin, stock.dim, layout);
  to.for_each([&](T& x, Index, Index h, Index t, Index c) { x = stock.row(0, h, tokens[begin + t])[c]; });
  return to;
}

/// What attention_forward() gives for the last `queries` of them.
template <class T>
Answer<T> answer_of_whole(const Problem& p, const Tensors<T>& stock, const Tokens& tokens, Index queries) {
  const auto k = picked(stock.k, tokens, 0, p.layout), v = picked(stock.v, tokens, 0, p.layout);
  const auto q = picked(stock.q, tokens, std::ssize(tokens) - queries, p.layout);
  Answer<T> answer(p, 1, queries);
  attention_forward({q.view(), k.view(), v.view(), p.scale}, p.options, answer.outputs(), answer.lists.data());
  return answer;
}

/// What the cache gives for the last `queries` of sequence `sequence`, which holds these tokens.
template <class T>
Answer<T> answer_of_cache(const Problem& p, const Tensors<T>& stock, const Tokens& tokens, Index queries,
                          KeyValueCache& cache, Index sequence, Executor& executor = serial_executor()) {
  const auto q = picked(stock.q, tokens, std::ssize(tokens) - queries, p.layout);
  Answer<T> answer(p, 1, queries);
  cache.attend({&sequence, 1}, q.view(), p.options, p.scale, answer.outputs(), answer.lists.data(), executor);
  return answer;
}

/// Appends what is behind the cache's length.
template <class T>
void append_rest(const Problem& p, const Tensors<T>& stock, const Tokens& tokens, KeyValueCache& cache, Index sequence,
                 Executor& executor = serial_executor()) {
  const Index begin = cache.length(sequence);
  const auto k = picked(stock.k, tokens, begin, p.layout), v = picked(stock.v, tokens, begin, p.layout);
  cache.append(sequence, k.view(), v.view(), executor);
}

template <class T>
CacheOptions cache_options(const Problem& p, Index page = 64, std::optional<bool> rounded_keys = {}) {
  return {.kv_heads = p.kv_heads,
          .dim = p.dim,
          .dtype = type_of<T>(),
          .plan = p.options,
          .page = page,
          .rounded_keys = rounded_keys};
}

}  // namespace hsattn::testing
