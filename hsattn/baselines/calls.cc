#include "hsattn/baselines/calls.h"

#include <algorithm>

#include "hsattn/attention/checks.h"
#include "hsattn/base/buffer.h"
#include "hsattn/base/error.h"

namespace hsattn {

std::vector<Sequence> whole_sequences(const AttentionInputs& in) {
  auto sequences = allocate_vector<Sequence>(in.q.batch, "attention: sequences");
  for (Index b = 0; b < in.q.batch; ++b)
    sequences[static_cast<std::size_t>(b)] = {b, {0, in.q.tokens}, {0, in.k.tokens}};
  return sequences;
}

void for_each_head(const AttentionInputs& in, std::span<const Sequence> sequences, Executor& executor,
                   const std::function<void(const HeadOfCall&)>& body, Heads which) {
  std::vector<HeadOfCall> heads;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& s = sequences[i];
    if (which == Heads::kThatAttend && (s.queries.size() == 0 || s.keys.size() == 0)) continue;
    for (Index h = 0; h < in.k.heads; ++h) heads.push_back({s, static_cast<Index>(i), h, in.q.heads / in.k.heads});
  }
  std::stable_sort(heads.begin(), heads.end(), [](const HeadOfCall& a, const HeadOfCall& b) {
    return a.sequence.keys.size() > b.sequence.keys.size();
  });
  executor.run(std::ssize(heads), [&](Index task) { body(heads[static_cast<std::size_t>(task)]); });
}

std::vector<BatchRange> queries_that_see_nothing(const char* who, const AttentionInputs& in,
                                                 std::span<const Sequence> sequences, bool causal) {
  std::vector<BatchRange> rows = tokens_of_none(who, "queries", sequences, &Sequence::queries, in.q.batch, in.q.tokens);
  for (const Sequence& s : sequences) {
    const Index blind = s.keys.size() == 0 ? s.queries.size() : causal ? s.queries.size() - s.keys.size() : 0;
    if (blind > 0) rows.push_back({s.batch, {s.queries.begin, s.queries.begin + blind}});
  }
  return rows;
}

void check_inputs_without_nodes(const char* who, const AttentionInputs& in) {
  check_inputs(who, in);
  check(!in.pooled, who, ": pooled keys and values are given; this attention has no nodes");
}

std::vector<BatchRange> keys_of_none(const char* who, const AttentionInputs& in, std::span<const Sequence> sequences) {
  std::vector<BatchRange> rows = tokens_of_none(who, "keys", sequences, &Sequence::keys, in.k.batch, in.k.tokens);
  for (const Sequence& s : sequences) {
    if (s.queries.size() == 0 && s.keys.size() > 0) rows.push_back({s.batch, s.keys});
  }
  return rows;
}

}  // namespace hsattn
