// From a call's options to jobs: what whole calls and those on a cache share.
#pragma once

#include <algorithm>

#include "hsattn/base/executor.h"
#include "hsattn/kernels/cpu/kernels.h"
#include "hsattn/kernels/cpu/pack.h"

namespace hsattn::cpu {

// Of a key/value head of the call.
SearchBudgets budgets_of(const PlanShape& shape, const PlanOptions& options, Index kv_head);

// The shape without lists and far nodes if every position attends everything: nothing is searched for them then.
PlanShape without_idle_search(PlanShape shape);

PackRequest request_for(const PlanShape& shape, bool search, bool rescore);

// Asks for keys and values as kernels of `isa` attend tensors of this type.
void request_values(Isa isa, DType type, PackRequest& request);

// Head `head` of the call's batch * kv_heads, whose queries are in q.
HeadJob head_job(const ConstView& q, const PlanShape& shape, double scale, Index head, const PackedHead& packed);

// Queries of one task: all of them on one thread, else enough tasks that threads finish together.
Index queries_per_task(Index queries, Index heads, Executor& executor);

template <class Body>
void for_each_tile(Index begin, Index end, const Body& body) {
  for (Index first = begin; first < end; first += kTile) body(first, std::min(kTile, end - first));
}

}  // namespace hsattn::cpu
