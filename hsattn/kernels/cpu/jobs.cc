#include "hsattn/kernels/cpu/jobs.h"

#include "hsattn/base/math.h"
#include "hsattn/plan/budgets.h"

namespace hsattn::cpu {

SearchBudgets budgets_of(const PlanShape& shape, const PlanOptions& options, Index kv_head) {
  const HsaOptions& o = options.hsa;
  SearchBudgets b;
  if (shape.kept > 0) b.kept = std::min(shape.kept, ceil_div(o.top_k_of(kv_head), shape.block));
  const Index per_node = shape.blocks_of_node();
  b.sinks = shape.sinks / per_node;
  b.candidates = std::max(ceil_div(shape.kept, per_node), ceil_div(o.candidates, shape.node));
  b.rescore = per_node > 1 || b.candidates > shape.kept;
  b.beam = o.beam > 0 ? o.beam : b.candidates;
  b.top_nodes = o.top_nodes;
  b.mass = mass_budget(o);
  b.least = o.mass > 0 ? std::min(b.kept, ceil_div(o.min_top_k, shape.block)) : b.kept;
  if (o.levels > 0) b.start_level = o.levels - log2_exact(shape.node);
  return b;
}

PlanShape without_idle_search(PlanShape shape) {
  if (shape.slots() == 0) return shape;
  for (Index query = shape.queries - 1; query >= 0; --query) {
    if (!shape.dense(shape.position(query))) return shape;
  }
  shape.kept = 0;
  shape.far_field = false;
  shape.tail = 0;
  return shape;
}

PackRequest request_for(const PlanShape& shape, bool search, bool rescore) {
  PackRequest request;
  request.block = shape.node;
  request.parts = shape.parts;
  request.pooling = shape.pooling;
  request.search = search && shape.slots() > 0;
  request.rescore = request.search && rescore;
  request.far_field = shape.far_field;
  request.tail = request.search && shape.tail > 0;
  return request;
}

void request_values(Isa isa, DType type, PackRequest& request) {
  const Kernels& kernels = kernels_for(isa, type);
  request.values = true;
  request.pairs = packs_pairs(isa, type);
  request.step = kernels.step;
  request.tiles = kernels.tiles;
}

HeadJob head_job(const ConstView& q, const PlanShape& shape, double scale, Index head, const PackedHead& packed) {
  HeadJob job;
  job.shape = shape;
  job.packed = &packed;
  job.kv_head = head % shape.kv_heads;
  job.group = q.heads / shape.kv_heads;
  job.scale = static_cast<float>(scale);
  job.q = stored_rows(q, head / shape.kv_heads, head % shape.kv_heads * job.group);
  return job;
}

Index queries_per_task(Index queries, Index heads, Executor& executor) {
  if (executor.threads() <= 1) return std::max<Index>(1, queries);
  const Index tasks = ceil_div(8 * executor.threads(), heads);
  return std::max(4 * kTile, round_up(ceil_div(queries, tasks), kTile));
}

}  // namespace hsattn::cpu
