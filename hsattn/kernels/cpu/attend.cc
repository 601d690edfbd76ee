#include "hsattn/kernels/cpu/attend.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "hsattn/base/math.h"
#include "hsattn/kernels/cpu/call_keys.h"
#include "hsattn/kernels/cpu/jobs.h"

namespace hsattn::cpu {
namespace {

// The rules of one sequence of a call.
struct SequencePlan {
  PlanShape shape;   // as the call has it: lists are kept in its slots
  PlanShape needed;  // without what nothing is searched for
  ListRule rule;

  SequencePlan(const PlanOptions& options, DType type, Index kv_heads, Index queries, Index keys)
      : shape(plan_shape(options, type, 1, kv_heads, queries, keys)),
        needed(without_idle_search(shape)),
        rule(needed, options) {}
};

// Rounded up so that a sequence grows a long time, and calls differ a little, before memory does not fit any more.
PlanShape with_room(PlanShape shape) {
  constexpr Index kLeast = 4096;
  const Index keys = std::max(kLeast, shape.keys);
  shape.keys = static_cast<Index>(std::bit_ceil(static_cast<std::uint64_t>(keys)));
  shape.queries = shape.queries <= 1 ? 1 : shape.queries <= kQuad ? kQuad : kTile;
  shape.batch = 1;
  if (shape.slots() == 0) shape.window = 0;  // decides nothing then, and may grow with the keys
  return shape;
}

}  // namespace

void ScratchPool::prepare(const HeadJob& job) {
  const ScratchKind kind{with_room(job.shape), job.search, job.group, job.rule == nullptr};
  if (kind != kind_) idle_.clear();
  kind_ = kind;
  job_ = job;
  job_.shape = kind.shape;
}

std::unique_ptr<Scratch> ScratchPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Scratch> scratch = std::move(idle_.back());
      idle_.pop_back();
      return scratch;
    }
  }
  return std::make_unique<Scratch>(job_, false);
}

void ScratchPool::give_back(std::unique_ptr<Scratch> scratch) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(scratch));
}

void attend(std::span<PackedHead> heads, Index kv_heads, const ConstView& q, const PlanOptions& options, double scale,
            const AttentionOutputs& out, std::int32_t* keep, ScratchPool& pool, Executor& executor) {
  const Index queries = q.tokens, group = q.heads / kv_heads, count = static_cast<Index>(heads.size());
  const Isa isa = selected_isa();
  const auto forward_tile = packs_pairs(isa, q.dtype) ? kernels_for(isa, q.dtype).forward_pairs  //
                                                      : kernels_for(isa, q.dtype).forward;
  std::vector<SequencePlan> plans;
  plans.reserve(static_cast<std::size_t>(q.batch));
  std::vector<CallKeys> rounded;
  for (Index i = 0; i < q.batch; ++i) {
    plans.emplace_back(options, q.dtype, kv_heads, queries, heads[i * kv_heads].keys);
    if (lists_by_rule(options.pattern)) continue;
    rounded.emplace_back(heads.subspan(i * kv_heads, kv_heads), plans.back().needed,
                         budgets_of(plans.back().needed, options, 0), executor);
  }
  const Index per_task = queries_per_task(queries, count, executor), chunks = ceil_div(queries, per_task);
  const auto job_of = [&](Index head) {
    const SequencePlan& plan = plans[static_cast<std::size_t>(head / kv_heads)];
    HeadJob job = head_job(q, plan.needed, scale, head, heads[head]);
    if (lists_by_rule(options.pattern)) {
      job.rule = &plan.rule;
    } else {
      job.search = budgets_of(plan.needed, options, job.kv_head);
    }
    if (keep != nullptr) job.keep = keep + head * queries * plan.shape.slots();
    return job;
  };
  const auto longest = std::max_element(heads.begin(), heads.end(),
                                        [](const PackedHead& a, const PackedHead& b) { return a.keys < b.keys; });
  pool.prepare(job_of(longest - heads.begin()));
  executor.run(count * chunks, [&](Index task) {
    const Index head = task % count, batch = head / kv_heads, q_head = head % kv_heads * group;
    const Index begin = (chunks - 1 - task / count) * per_task;  // the last, with the longest past, first
    const Index end = std::min(queries, begin + per_task);
    const HeadJob job = job_of(head);
    if (job.keep != nullptr && job.shape.slots() == 0) {
      const Index slots = plans[static_cast<std::size_t>(batch)].shape.slots();
      std::fill_n(job.keep + begin * slots, (end - begin) * slots, -1);
    }
    auto* lse = static_cast<float*>(out.lse);
    if (lse != nullptr) lse += (batch * q.heads + q_head) * queries;
    const ForwardOutputs outputs{writable_rows(out.o, batch, q_head), lse};
    std::unique_ptr<Scratch> scratch = pool.take();
    for_each_tile(begin, end, [&](Index first, Index some) { forward_tile(job, first, some, outputs, *scratch); });
    pool.give_back(std::move(scratch));
  });
}

}  // namespace hsattn::cpu
