#include <algorithm>

#include "torch_ops/ops.h"

namespace hsattn::torch_ops {
namespace {

enum MapLevel : std::int8_t { kUnseen = -1, kNear = 0, kKept = 1, kFar = 2 };

PlanView checked_plan(const char* who, const Tensor& lists, const std::string& pattern, bool causal,
                      const Budgets& budgets, const std::vector<Index>& sizes) {
  check(sizes.size() == 4, who, ": sizes has ", sizes.size(), " numbers; it must be batch, kv_heads, queries, keys");
  const PlanOptions options = options_from(pattern, causal, budgets);
  check(options.pattern != Pattern::kHsa || options.hsa.dense_until >= 0, who,
        ": dense_until is -1 (auto), which takes the tensors' type; dense_until() says what it is "
        "for them");
  const PlanShape shape = plan_shape(options, DType::kFloat32, sizes[0], sizes[1], sizes[2], sizes[3]);
  const PlanView plan = plan_view(who, shape, lists);
  check_plan(plan);
  return plan;
}

void check_in(const char* name, Index value, Index size) {
  check(value >= 0 && value < size, "plan_map: ", name, " is ", value, "; the plan has ", size);
}

// row [keys], filled with kUnseen
void map_position(const PlanShape& shape, Index position, std::span<const std::int32_t> list, std::int8_t* row) {
  const auto fill = [&](Index begin, Index end, Index level) {
    std::fill(row + begin, row + std::min(end, shape.keys), static_cast<std::int8_t>(level));
  };
  std::vector<FarNode> far;
  far_field_of(shape, position, list, far);
  for (const FarNode& node : far) {
    const Index begin = (node.index << node.level) * shape.block;
    fill(begin, begin + node.tokens, kFar + node.level);
  }
  for (const Index block : list) fill(block * shape.block, (block + 1) * shape.block, kKept);
  const Range near = shape.near(position);
  fill(near.begin, near.end, kNear);
}

}  // namespace

Budgets preset(const std::string& name) { return budgets_of(preset_from_name(name)); }

Index plan_slots(const std::string& pattern, bool causal, const Budgets& budgets) {
  const PlanOptions options = options_from(pattern, causal, budgets);
  return plan_shape(options, DType::kFloat32, 0, std::ssize(options.hsa.head_top_k), 0, 0).slots();
}

Index dense_until(const Tensor& q, const Budgets& budgets) {
  return dense_until_of(options_of_budgets(budgets), dtype_of("dense_until", "q", q));
}

Tensor plan_map(const Tensor& lists, const std::string& pattern, bool causal, const Budgets& budgets,
                const std::vector<Index>& sizes, Index batch, Index kv_head, Index first, Index count) {
  const PlanView plan = checked_plan("plan_map", lists, pattern, causal, budgets, sizes);
  const PlanShape& shape = plan.shape;
  check_in("batch", batch, shape.batch);
  check_in("kv_head", kv_head, shape.kv_heads);
  check(first >= 0 && count >= 0 && first <= shape.queries - count, "plan_map: queries ", first, " to ", first + count,
        " were asked; the plan has ", shape.queries);
  const Tensor map = new_tensor(lists, {count, shape.keys}, ScalarType::Char);
  auto* rows = static_cast<std::int8_t*>(map.mutable_data_ptr());
  std::fill(rows, rows + count * shape.keys, kUnseen);
  for (Index i = 0; i < count; ++i) {
    const Index query = first + i;
    map_position(shape, shape.position(query), plan.list(batch, kv_head, query), rows + i * shape.keys);
  }
  return map;
}

std::string describe_plan(const Tensor& lists, const std::string& pattern, bool causal, const Budgets& budgets,
                          const std::vector<Index>& sizes) {
  return describe(checked_plan("describe_plan", lists, pattern, causal, budgets, sizes));
}

std::string check_plan_lists(const Tensor& lists, const std::string& pattern, bool causal, const Budgets& budgets,
                             const std::vector<Index>& sizes) {
  return covers_each_token_once(checked_plan("check_plan", lists, pattern, causal, budgets, sizes));
}

}  // namespace hsattn::torch_ops
