#include "lm/eval/spans.h"

#include <algorithm>

namespace hsattn::lm {

std::vector<Span> spans_of(const PlanView& plan, Index batch, Index kv_head, Index query) {
  const PlanShape& shape = plan.shape;
  const Index position = shape.position(query);
  const auto add = [&](std::vector<Span>& spans, Span span) {
    span.end = std::min(span.end, shape.keys);
    if (span.size() > 0) spans.push_back(span);
  };
  std::vector<Span> spans;
  const Range near = shape.near(position);
  add(spans, {Span::Kind::kNear, near.begin, near.end, 0});
  if (shape.dense(position) || shape.slots() == 0) return spans;
  const auto list = plan.list(batch, kv_head, query);
  for (const std::int32_t block : list) {
    add(spans, {Span::Kind::kBlock, block * shape.block, (block + 1) * shape.block, 0});
  }
  std::vector<FarNode> far;
  far_field_of(shape, position, list, far);
  for (const FarNode& node : far) {
    const Index begin = (node.index << node.level) * shape.block;
    add(spans, {Span::Kind::kFar, begin, begin + node.tokens, node.level});
  }
  return spans;
}

std::vector<Index> even_positions(Index queries, Index count) {
  count = std::min(queries, count);
  std::vector<Index> positions;
  for (Index i = 0; i < count; ++i) positions.push_back((i + 1) * queries / count - 1);
  return positions;
}

}  // namespace hsattn::lm
