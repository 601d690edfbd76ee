// What one position attends, as runs of tokens: for checks and pictures. No torch here.
#pragma once

#include <vector>

#include "hsattn/plan/plan.h"

namespace hsattn::lm {

/// Tokens [begin, end) that a position attends: token by token (near run and blocks), or as one pooled node.
struct Span {
  enum class Kind { kNear, kBlock, kFar };
  Kind kind = Kind::kNear;
  Index begin = 0, end = 0;
  Index level = 0;  ///< of a far node: it stands for 2^level blocks

  Index size() const { return end - begin; }
};

/// All spans of query `query`, in ascending order of tokens within each kind: near run, blocks, far nodes.
std::vector<Span> spans_of(const PlanView& plan, Index batch, Index kv_head, Index query);

/// `count` query numbers spread evenly over [0, queries), the last one included.
std::vector<Index> even_positions(Index queries, Index count);

}  // namespace hsattn::lm
