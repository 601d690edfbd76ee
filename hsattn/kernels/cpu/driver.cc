#include "hsattn/kernels/cpu/driver.h"

#include <algorithm>
#include <vector>

#include "hsattn/kernels/cpu/gradient_sums.h"
#include "hsattn/kernels/cpu/waves.h"

namespace hsattn::cpu {
namespace {

void empty_lists(const PlanShape& shape, std::int32_t* lists) {
  std::fill_n(lists, shape.batch * shape.kv_heads * shape.queries * shape.slots(), -1);
}

// Where the lists of a call come from: one of them.
struct ListSource {
  const std::int32_t* given = nullptr;  // lists of the whole call
  const ListRule* rule = nullptr;
  const PlanOptions* search = nullptr;  // a search with these
};

// The part that all forward passes share; `keep` is for lists of the whole call, or null.
void run_forward(const AttentionInputs& in, double scale, const PlanShape& shape, const ListSource& source,
                 const AttentionOutputs& out, std::int32_t* keep, Executor& executor) {
  const Kernels& kernels = kernels_for(selected_isa(), in.q.dtype);
  const bool search = source.search != nullptr;
  PackRequest request = request_for(shape, search, search && budgets_of(shape, *source.search, 0).rescore);
  request_values(selected_isa(), in.q.dtype, request);
  const auto forward_tile = request.pairs ? kernels.forward_pairs : kernels.forward;
  Waves waves(in.k, &in.v, in.pooled.value_or(ConstNodes()), request, executor);
  waves.run([&](Index first_head, Index heads) {
    const Index per_task = queries_per_task(shape.queries, heads, executor);
    const Index chunks = ceil_div(shape.queries, per_task);
    const auto job_of = [&](Index task) {
      const Index head = first_head + task % heads;
      HeadJob job = head_job(in.q, shape, scale, head, waves.packed(task % heads));
      if (search) job.search = budgets_of(shape, *source.search, job.kv_head);
      job.rule = source.rule;
      job.lists = lists_of_head(source.given, shape, head);
      job.keep = lists_of_head(keep, shape, head);
      return job;
    };
    run_tasks(executor, heads * chunks, false, job_of, [&](Index task, const HeadJob& job, Scratch& scratch) {
      const Index head = first_head + task % heads;
      const Index batch = head / shape.kv_heads, q_head = head % shape.kv_heads * job.group;
      auto* lse = static_cast<float*>(out.lse);
      if (lse != nullptr) lse += (batch * in.q.heads + q_head) * shape.queries;
      const ForwardOutputs outputs{writable_rows(out.o, batch, q_head), lse};
      // The last tasks, with the longest past, first.
      const Index begin = (chunks - 1 - task / heads) * per_task;
      for_each_tile(begin, std::min(shape.queries, begin + per_task),
                    [&](Index first, Index count) { forward_tile(job, first, count, outputs, scratch); });
    });
  });
}

}  // namespace

void select(const ConstView& q, const ConstView& k, const PlanShape& shape, const PlanOptions& options, double scale,
            std::int32_t* blocks, Executor& executor, const std::optional<ConstView>& pooled_keys) {
  if (without_idle_search(shape).slots() == 0) {
    empty_lists(shape, blocks);
    return;
  }
  const Kernels& kernels = kernels_for(selected_isa(), q.dtype);
  PackRequest request = request_for(shape, true, budgets_of(shape, options, 0).rescore);
  request.far_field = false;
  Waves waves(k, nullptr, {pooled_keys.value_or(ConstView()), {}}, request, executor);
  waves.run([&](Index first_head, Index heads) {
    const Index per_task = queries_per_task(shape.queries, heads, executor);
    const Index chunks = ceil_div(shape.queries, per_task);
    const auto job_of = [&](Index task) {
      HeadJob job = head_job(q, shape, scale, first_head + task % heads, waves.packed(task % heads));
      job.search = budgets_of(shape, options, job.kv_head);
      return job;
    };
    run_tasks(executor, heads * chunks, false, job_of, [&](Index task, const HeadJob& job, Scratch& scratch) {
      std::int32_t* lists = lists_of_head(blocks, shape, first_head + task % heads);
      const Index begin = (chunks - 1 - task / heads) * per_task;
      for_each_tile(begin, std::min(shape.queries, begin + per_task), [&](Index first, Index count) {
        kernels.select(job, first, count, lists + first * shape.slots(), scratch);
      });
    });
  });
}

void forward(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionOutputs& out,
             Executor& executor) {
  run_forward(in, scale, without_idle_search(plan.shape), {.given = plan.blocks}, out, nullptr, executor);
}

void forward(const AttentionInputs& in, double scale, const PlanShape& shape, const PlanOptions& options,
             const AttentionOutputs& out, std::int32_t* keep, Executor& executor) {
  const PlanShape needed = without_idle_search(shape);
  if (keep != nullptr && needed.slots() == 0) empty_lists(shape, keep);
  const ListRule rule(needed, options);
  const ListSource source = lists_by_rule(options.pattern) ? ListSource{.rule = &rule} : ListSource{.search = &options};
  run_forward(in, scale, needed, source, out, keep, executor);
}

namespace {

// Ranges of queries with accumulators of their own: a function of the shape alone, or results would depend on threads.
Index query_ranges(const PlanShape& shape) {
  constexpr Index kWanted = 8, kSmallest = 512;  // (head, range) pairs; queries of a range
  const Index heads = std::max<Index>(1, shape.batch * shape.kv_heads);
  return std::clamp<Index>(std::min(ceil_div(kWanted, heads), shape.queries / kSmallest), 1, kWanted);
}

BackwardJob backward_job(const HeadJob& job, const AttentionInputs& in, const AttentionSaved& saved,
                         const AttentionGradients& grads, Index head, GradientSums& sums) {
  const Index batch = head / job.shape.kv_heads, q_head = head % job.shape.kv_heads * job.group;
  BackwardJob out;
  out.o = stored_rows(saved.o, batch, q_head);
  out.dout = stored_rows(saved.dout, batch, q_head);
  out.lse = static_cast<const float*>(saved.lse) + (batch * in.q.heads + q_head) * job.shape.queries;
  out.dq = writable_rows(grads.dq, batch, q_head);
  out.dk = sums.dk.get();
  out.dv = sums.dv.get();
  out.dk_nodes = sums.dk_nodes.get();
  out.dv_nodes = sums.dv_nodes.get();
  return out;
}

}  // namespace

void backward(const AttentionInputs& in, double scale, const PlanView& plan, const AttentionSaved& saved,
              const AttentionGradients& grads, Executor& executor) {
  const PlanShape shape = without_idle_search(plan.shape);
  const Kernels& kernels = kernels_for(selected_isa(), in.q.dtype);
  PackRequest request = request_for(shape, false, false);
  request_values(selected_isa(), in.q.dtype, request);
  request.backward = true;
  const auto backward_tile = request.pairs ? kernels.backward_pairs : kernels.backward;
  Waves waves(in.k, &in.v, in.pooled.value_or(ConstNodes()), request, executor);
  const Index ranges = query_ranges(shape);
  const Index per_range = std::max<Index>(kTile, round_up(ceil_div(shape.queries, ranges), kTile));
  std::vector<GradientSums> sums;
  waves.run([&](Index first_head, Index heads) {
    while (static_cast<Index>(sums.size()) < heads * ranges) sums.emplace_back(waves.packed(0), shape.far_field);
    const auto job_of = [&](Index task) {
      HeadJob job = head_job(in.q, shape, scale, first_head + task % heads, waves.packed(task % heads));
      job.lists = lists_of_head(plan.blocks, shape, first_head + task % heads);
      return job;
    };
    run_tasks(executor, heads * ranges, true, job_of, [&](Index task, const HeadJob& job, Scratch& scratch) {
      const Index in_wave = task % heads, range = ranges - 1 - task / heads;  // the longest past first
      GradientSums& own = sums[static_cast<std::size_t>(in_wave * ranges + range)];
      own.clear();
      const BackwardJob out = backward_job(job, in, saved, grads, first_head + in_wave, own);
      for_each_tile(range * per_range, std::min(shape.queries, (range + 1) * per_range),
                    [&](Index first, Index count) { backward_tile(job, out, first, count, scratch); });
    });
    executor.run(heads, [&](Index i) {
      const Index head = first_head + i;
      finish_head(waves.packed(i), shape, &sums[static_cast<std::size_t>(i * ranges)], ranges,
                  static_cast<float>(scale), waves.keys(head), waves.values(head), head_gradients(in, grads, head));
    });
  });
}

}  // namespace hsattn::cpu
