// Attention of the last queries of sequences whose heads are packed already, as a cache keeps them.
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "hsattn/attention/attention.h"
#include "hsattn/kernels/cpu/kernels.h"

namespace hsattn::cpu {

// What fixes the size of a task's working memory.
struct ScratchKind {
  PlanShape shape;  // with room for more keys than there are
  SearchBudgets search;
  Index group = 0;
  bool searches = false;

  bool operator==(const ScratchKind&) const = default;
};

// Working memory of tasks, kept from call to call: to ask for it costs more than attention of one query.
class ScratchPool {
 public:
  // From now on, memory is for jobs like this one, or on fewer keys. Not while some of it is taken.
  void prepare(const HeadJob& job);
  std::unique_ptr<Scratch> take();
  void give_back(std::unique_ptr<Scratch> scratch);

 private:
  HeadJob job_;  // what it points to lives as long as the call
  ScratchKind kind_;
  std::vector<std::unique_ptr<Scratch>> idle_;
  std::mutex mutex_;
};

// `heads` [sequences, kv_heads], q [sequences, heads, queries, dim]: each sequence's last queries. A head holds what
// its search and far field need; keys rounded for the call may be added to it. Lists go to `keep` [sequences, kv_heads,
// queries, slots] if it is not null.
void attend(std::span<PackedHead> heads, Index kv_heads, const ConstView& q, const PlanOptions& options, double scale,
            const AttentionOutputs& out, std::int32_t* keep, ScratchPool& pool, Executor& executor);

}  // namespace hsattn::cpu
