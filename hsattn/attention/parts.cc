#include "hsattn/attention/parts.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "hsattn/base/math.h"

namespace hsattn {
namespace {

template <class T>
void fill_lse(T* lse, const ConstView& q, std::span<const BatchRange> rows) {
  for (const BatchRange& run : rows) {
    for (Index h = 0; h < q.heads; ++h) {
      T* head = lse + (run.batch * q.heads + h) * q.tokens;
      std::fill(head + run.tokens.begin, head + run.tokens.end, -std::numeric_limits<T>::infinity());
    }
  }
}

// True if a sequence should have all threads for itself: where it is more than a thread's share of the work, or a good
// part of it and there is work inside for every thread. The others go side by side. Neither shows in the bits.
std::vector<bool> needs_all_threads(std::span<const Sequence> sequences, const std::vector<double>& costs, Index heads,
                                    Index threads) {
  constexpr Index kTask = 256;  // queries of a head that are worth a task, as in the kernels
  const double share = std::accumulate(costs.begin(), costs.end(), 0.0) / static_cast<double>(threads);
  std::vector<bool> needs(sequences.size());
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Index tasks = heads * ceil_div(sequences[i].queries.size(), kTask);
    needs[i] = threads == 1 || costs[i] > share || (costs[i] > share / 4 && tasks >= threads);
  }
  return needs;
}

}  // namespace

void for_each_sequence(std::span<const Sequence> sequences, Index heads, Executor& executor,
                       const std::function<void(std::size_t, Executor&)>& body) {
  std::vector<double> costs;
  for (const Sequence& s : sequences) {
    costs.push_back(static_cast<double>(s.queries.size()) * static_cast<double>(s.keys.size()));
  }
  const std::vector<bool> needs = needs_all_threads(sequences, costs, heads, executor.threads());
  std::vector<std::size_t> side_by_side;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    if (needs[i]) {
      body(i, executor);
    } else {
      side_by_side.push_back(i);
    }
  }
  std::stable_sort(side_by_side.begin(), side_by_side.end(),
                   [&](std::size_t a, std::size_t b) { return costs[a] > costs[b]; });
  executor.run(std::ssize(side_by_side),
               [&](Index task) { body(side_by_side[static_cast<std::size_t>(task)], serial_executor()); });
}

void clear_rows(const View& view, std::span<const BatchRange> rows) {
  const auto bytes = static_cast<std::size_t>(view.dim * size_of(view.dtype));
  for (const BatchRange& run : rows) {
    const View part = part_of(view, run.batch, run.tokens);
    for (Index h = 0; h < part.heads; ++h) {
      for (Index t = 0; t < part.tokens; ++t) {
        const Index row = h * part.head_stride + t * part.token_stride;
        std::memset(static_cast<std::byte*>(part.data) + row * size_of(view.dtype), 0, bytes);
      }
    }
  }
}

void clear_lse(void* lse, const ConstView& q, std::span<const BatchRange> rows) {
  if (lse == nullptr) return;
  if (lse_type(q.dtype) == DType::kFloat64) return fill_lse(static_cast<double*>(lse), q, rows);
  fill_lse(static_cast<float*>(lse), q, rows);
}

}  // namespace hsattn
