#include "hsattn/kernels/cpu/driver.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "hsattn/kernels/cpu/jobs.h"
#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/node_gradients.h"
#include "hsattn/kernels/cpu/pack.h"

namespace hsattn::cpu {
namespace {

void empty_lists(const PlanShape& shape, std::int32_t* lists) {
  std::fill_n(lists, shape.batch * shape.kv_heads * shape.queries * shape.slots(), -1);
}

// Heads of a call, a few at a time: as many are packed at once as there are threads, so that memory stays bounded.
class Waves {
 public:
  Waves(const ConstView& k, const ConstView* v, const ConstNodes& pooled, const PackRequest& request,
        Executor& executor)
      : k_(k), v_(v), pooled_(pooled), request_(request), executor_(executor), heads_(k.batch * k.heads) {
    const Index size = std::min<Index>(heads_, executor.threads());
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
      head.any_not_finite = std::any_of(flags, flags + head.units, [](std::uint8_t f) { return f != 0; });
      build_pyramid(keys(first + i), values(first + i), given(first + i), request_, head);
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

// Where the lists of a call come from: the first that is there.
struct ListSource {
  const std::int32_t* given = nullptr;  // lists of the whole call
  const ListRule* rule = nullptr;
  SearchBudgets search = {};
};

// The part that all forward passes share; `keep` is for lists of the whole call, or null.
void run_forward(const AttentionInputs& in, double scale, const PlanShape& shape, const ListSource& source,
                 const AttentionOutputs& out, std::int32_t* keep, Executor& executor) {
  const Kernels& kernels = kernels_for(selected_isa(), in.q.dtype);
  PackRequest request = request_for(shape, source.given == nullptr && source.rule == nullptr, source.search.rescore);
  request_values(selected_isa(), in.q.dtype, request);
  const auto forward_tile = request.pairs ? kernels.forward_pairs : kernels.forward;
  Waves waves(in.k, &in.v, in.pooled.value_or(ConstNodes()), request, executor);
  waves.run([&](Index first_head, Index heads) {
    const Index per_task = queries_per_task(shape.queries, heads, executor);
    const Index chunks = ceil_div(shape.queries, per_task);
    const auto job_of = [&](Index task) {
      const Index head = first_head + task % heads;
      HeadJob job = head_job(in.q, shape, scale, head, waves.packed(task % heads));
      job.search = source.search;
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
  const SearchBudgets budgets = budgets_of(shape, options);
  PackRequest request = request_for(shape, true, budgets.rescore);
  request.far_field = false;
  Waves waves(k, nullptr, {pooled_keys.value_or(ConstView()), {}}, request, executor);
  waves.run([&](Index first_head, Index heads) {
    const Index per_task = queries_per_task(shape.queries, heads, executor);
    const Index chunks = ceil_div(shape.queries, per_task);
    const auto job_of = [&](Index task) {
      HeadJob job = head_job(q, shape, scale, first_head + task % heads, waves.packed(task % heads));
      job.search = budgets;
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
  run_forward(in, scale, needed,
              {.rule = lists_by_rule(options.pattern) ? &rule : nullptr, .search = budgets_of(needed, options)}, out,
              keep, executor);
}

namespace {

// Sums of one (head, range of queries), merged in the order of the ranges.
struct GradientSums {
  Buffer<float> dk, dv, dk_nodes, dv_nodes;
  Index tokens = 0, nodes = 0;  // floats of each

  GradientSums(const PackedHead& head, bool far_field)
      : tokens(head.units * kUnit * head.padded_dim), nodes(far_field ? head.pyramid.rows() * head.padded_dim : 0) {
    const char* what = "attention_backward: sums of dk and dv";
    dk = allocate_buffer<float>(tokens, what);
    dv = allocate_buffer<float>(tokens, what);
    dk_nodes = allocate_buffer<float>(nodes, what);
    dv_nodes = allocate_buffer<float>(nodes, what);
  }
  void clear() {
    for (const auto& [sums, count] :
         {std::pair{dk.get(), tokens}, {dv.get(), tokens}, {dk_nodes.get(), nodes}, {dv_nodes.get(), nodes}}) {
      std::memset(sums, 0, static_cast<std::size_t>(count) * sizeof(float));
    }
  }
};

// Ranges of queries with accumulators of their own: a function of the shape alone, or results would depend on threads.
Index query_ranges(const PlanShape& shape) {
  constexpr Index kWanted = 8, kSmallest = 512;  // (head, range) pairs; queries of a range
  const Index heads = std::max<Index>(1, shape.batch * shape.kv_heads);
  return std::clamp<Index>(std::min(ceil_div(kWanted, heads), shape.queries / kSmallest), 1, kWanted);
}

void add_into(float* to, const float* from, Index count) {
  for (Index i = 0; i < count; ++i) to[i] += from[i];
}

void write_token_gradients(const float* sums, Index padded_dim, const WritableRows& to) {
  for (Index t = 0; t < to.count; ++t) write_row(to.dtype, sums + t * padded_dim, to.dim, to.row(t));
}

void spread_node_gradients(const PackedHead& packed, const PlanShape& shape, const StoredRows& k, const StoredRows& v,
                           GradientSums& sum) {
  const PackedPyramid& p = packed.pyramid;
  if (shape.pooling == Pooling::kMax) {
    spread_max_gradients(packed, shape.block, {p.level[0].keys.run, k}, sum.dk_nodes.get(), sum.dk.get());
    spread_max_gradients(packed, shape.block, {p.level[0].values.run, v}, sum.dv_nodes.get(), sum.dv.get());
  } else {
    spread_mean_gradients(packed, shape.block, sum.dk_nodes.get(), sum.dk.get());
    spread_mean_gradients(packed, shape.block, sum.dv_nodes.get(), sum.dv.get());
  }
}

// Sums as kernels with tiles keep them, [units / 2, padded dim, 16], become [tokens, padded dim].
void turn_columns(const PackedHead& packed, float* sums) {
  constexpr Index kColumns = 16;
  const Index padded = packed.padded_dim, block = kColumns * padded;
  float columns[kColumns * kMaxDim];
  for (Index first = 0; first < packed.keys; first += kColumns, sums += block) {
    std::copy_n(sums, block, columns);
    for (Index token = 0; token < kColumns; ++token) {
      for (Index d = 0; d < padded; ++d) sums[token * padded + d] = columns[d * kColumns + token];
    }
  }
}

// Gradients of nodes that the caller pooled: zero where every position attends everything, so that none was packed.
void write_node_gradients(const Buffer<float>& sums, bool any, Index padded_dim, const Rows<float>& to) {
  for (Index i = 0; i < to.count; ++i) {
    if (any) {
      std::copy_n(sums.get() + i * padded_dim, to.dim, to.row(i));
    } else {
      std::fill_n(to.row(i), to.dim, 0.0F);
    }
  }
}

// What becomes of the gradients of one head.
struct HeadGradients {
  WritableRows dk, dv;
  bool pooled = false;             // nodes were given: no gradient of theirs goes to tokens
  Rows<float> dk_nodes, dv_nodes;  // then; without rows if they are not wanted
};

HeadGradients head_gradients(const AttentionInputs& in, const AttentionGradients& grads, Index head) {
  const Index batch = head / in.k.heads, kv_head = head % in.k.heads;
  HeadGradients out{
      writable_rows(grads.dk, batch, kv_head), writable_rows(grads.dv, batch, kv_head), in.pooled.has_value(), {}, {}};
  if (grads.dpooled) {
    out.dk_nodes = rows_of<float>(grads.dpooled->k, batch, kv_head);
    out.dv_nodes = rows_of<float>(grads.dpooled->v, batch, kv_head);
  }
  return out;
}

// Merges the ranges of one head, spreads the gradients of nodes to tokens, and writes dk and dv.
void finish_head(const PackedHead& packed, const PlanShape& shape, GradientSums* ranges, Index count, float scale,
                 const StoredRows& k, const StoredRows& v, const HeadGradients& out) {
  GradientSums& sum = ranges[0];
  for (Index r = 1; r < count; ++r) {
    add_into(sum.dk.get(), ranges[r].dk.get(), sum.tokens);
    add_into(sum.dv.get(), ranges[r].dv.get(), sum.tokens);
    add_into(sum.dk_nodes.get(), ranges[r].dk_nodes.get(), sum.nodes);
    add_into(sum.dv_nodes.get(), ranges[r].dv_nodes.get(), sum.nodes);
  }
  if (packed.tiles) {
    turn_columns(packed, sum.dk.get());
    turn_columns(packed, sum.dv.get());
  }
  if (packed.pairs) {  // their queries are not multiplied by it
    for (Index i = 0; i < sum.tokens; ++i) sum.dk[i] *= scale;
  }
  if (out.pooled) {
    write_node_gradients(sum.dk_nodes, shape.far_field, packed.padded_dim, out.dk_nodes);
    write_node_gradients(sum.dv_nodes, shape.far_field, packed.padded_dim, out.dv_nodes);
  } else if (shape.far_field) {
    spread_node_gradients(packed, shape, k, v, sum);
  }
  write_token_gradients(sum.dk.get(), packed.padded_dim, out.dk);
  write_token_gradients(sum.dv.get(), packed.padded_dim, out.dv);
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
