// One decode step on a cache against SDPA on whole tensors.
#pragma once

#include "lm/eval/attention_bench.h"
#include "lm/eval/bench_tensors.h"

namespace hsattn::lm {

/// Checks what the cache of `t.k` and `t.v` gives for the last queries, each as the newest token: it has the bits of
/// attention without a cache, whose error goes into the row. Throws Error if it has not, or the error is above
/// row.allowed_error.
void check_decode(const PlanOptions& options, const BenchTensors& t, BenchRow& row);

/// Times one query of each head. SDPA has the faster of its ways: keys and values expanded to the query heads before,
/// or its own handling of groups. row.memory becomes the cache's beyond keys and values, as a multiple of them.
void time_decode(const PlanOptions& options, const BenchTensors& t, Index repeats, BenchRow& row);

}  // namespace hsattn::lm
