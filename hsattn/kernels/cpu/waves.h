// Heads of a call in waves, and tasks on them with working memory.
#pragma once

#include <algorithm>
#include <vector>

#include "hsattn/base/executor.h"
#include "hsattn/kernels/cpu/jobs.h"
#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/pack.h"

namespace hsattn::cpu {

// Heads of a call, a few at a time: as many are packed at once as there are threads, so that memory stays bounded.
class Waves {
 public:
  Waves(const ConstView& k, const ConstView* v, const ConstNodes& pooled, const PackRequest& request,
        Executor& executor)
      : k_(k), v_(v), pooled_(pooled), request_(request), executor_(executor), heads_(k.batch * k.heads) {
    const Index size = std::min<Index>(heads_, std::max(1, executor.threads()));
    for (Index i = 0; i < size; ++i) packed_.push_back(allocate_packed_head(k.tokens, k.dim, request));
  }

  // Packs each wave and calls body(first head, heads in the wave); packed(i) is the i-th of the wave.
  template <class Body>
  void run(const Body& body) {
    const auto size = static_cast<Index>(packed_.size());
    for (Index first = 0; first < heads_; first += size) {
      const Index count = std::min(size, heads_ - first);
      pack(first, count);
      body(first, count);
    }
  }

  const PackedHead& packed(Index i) const { return packed_[static_cast<std::size_t>(i)].head; }
  // Of a head of the call.
  StoredRows keys(Index head) const { return stored_rows(k_, head / k_.heads, head % k_.heads); }
  StoredRows values(Index head) const {
    return v_ == nullptr ? keys(head) : stored_rows(*v_, head / k_.heads, head % k_.heads);
  }

 private:
  GivenNodes given(Index head) const {
    const auto rows = [&](const ConstView& nodes) {
      return nodes.data == nullptr ? Rows<const float>{}
                                   : rows_of<const float>(nodes, head / k_.heads, head % k_.heads);
    };
    return {rows(pooled_.k), rows(pooled_.v)};
  }

  void pack(Index first, Index count) {
    const Index units = packed_[0].head.units;
    const Index chunk = executor_.threads() == 1 ? std::max<Index>(1, units) : std::max<Index>(64, ceil_div(units, 8));
    const Index chunks = ceil_div(units, chunk);
    executor_.run(count * chunks, [&](Index task) {
      PackedHead& head = packed_[static_cast<std::size_t>(task / chunks)].head;
      const Index begin = task % chunks * chunk;
      pack_units(keys(first + task / chunks), values(first + task / chunks), request_, begin,
                 std::min(units, begin + chunk), head);
    });
    executor_.run(count, [&](Index i) {
      PackedHead& head = packed_[static_cast<std::size_t>(i)].head;
      const auto* flags = head.not_finite.run;
      build_pyramid(keys(first + i), values(first + i), given(first + i), request_, head);
      head.any_not_finite = std::any_of(flags, flags + head.units, [](std::uint8_t f) { return f != 0; }) ||
                            !far_nodes_finite(request_, head);
    });
  }

  const ConstView& k_;
  const ConstView* v_;
  ConstNodes pooled_;  // without data where the call pools
  PackRequest request_;
  Executor& executor_;
  Index heads_;
  std::vector<OwnedHead> packed_;
};

// Runs body(task, its job, working memory) for all tasks; on one thread they share the memory, which is most of the
// cost of a short call.
template <class JobOf, class Body>
void run_tasks(Executor& executor, Index tasks, bool backward, const JobOf& job_of, const Body& body) {
  if (tasks == 0) return;
  if (executor.threads() == 1) {
    Scratch scratch(job_of(0), backward);
    for (Index task = 0; task < tasks; ++task) body(task, job_of(task), scratch);
    return;
  }
  executor.run(tasks, [&](Index task) {
    const HeadJob job = job_of(task);
    Scratch scratch(job, backward);
    body(task, job, scratch);
  });
}

template <class Id>
Id* lists_of_head(Id* lists, const PlanShape& shape, Index head) {
  return lists == nullptr ? nullptr : lists + head * shape.queries * shape.slots();
}

}  // namespace hsattn::cpu
