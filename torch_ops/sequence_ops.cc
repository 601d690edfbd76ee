#include <algorithm>

#include "torch_ops/ops.h"
#include "torch_ops/sequences.h"

namespace hsattn::torch_ops {
namespace {

std::vector<Index> offsets_of(const char* name, const Tensor& given) {
  check_on_cpu("packed_sequences", name, given);
  const ScalarType type = given.scalar_type();
  check(given.dim() == 1 && (type == ScalarType::Int || type == ScalarType::Long), "packed_sequences: ", name,
        " has shape ", shape_of(given), " and type ", torch::headeronly::toString(type),
        "; it must be [sequences + 1], Int (int32) or Long (int64)");
  const Tensor offsets = torch::stable::contiguous(given);
  std::vector<Index> out(static_cast<std::size_t>(offsets.numel()));
  if (type == ScalarType::Int) std::copy_n(const_ids(offsets), out.size(), out.begin());
  if (type == ScalarType::Long)
    std::copy_n(static_cast<const Index*>(offsets.const_data_ptr()), out.size(), out.begin());
  return out;
}

Tensor tensor_of(const std::vector<Sequence>& sequences, const Tensor& like) {
  const Tensor rows = new_tensor(like, {static_cast<Index>(sequences.size()), 5}, ScalarType::Long);
  auto* to = static_cast<Index*>(rows.mutable_data_ptr());
  for (const Sequence& s : sequences) {
    for (const Index x : {s.batch, s.queries.begin, s.queries.end, s.keys.begin, s.keys.end}) *to++ = x;
  }
  return rows;
}

// The run of true elements of a row.
Range run_of(const bool* row, Index tokens, Index batch) {
  const Index begin = std::find(row, row + tokens, true) - row;
  const Index end = std::find(row + begin, row + tokens, false) - row;
  const Index again = std::find(row + end, row + tokens, true) - row;
  check(again == tokens, "padded_sequences: row ", batch, " of the mask has real tokens from ", begin, " to ", end,
        " and again at ", again, "; there must be one run of them");
  return begin == tokens ? Range{0, 0} : Range{begin, end};
}

}  // namespace

Tensor packed_sequences(const Tensor& first_queries, const std::optional<Tensor>& first_keys) {
  const std::vector<Index> queries = offsets_of("cu_seqlens_q", first_queries);
  const std::vector<Index> keys = first_keys ? offsets_of("cu_seqlens_k", *first_keys) : queries;
  return tensor_of(hsattn::packed_sequences(queries, keys), first_queries);
}

Tensor padded_sequences(const Tensor& mask, Index queries) {
  check_on_cpu("padded_sequences", "mask", mask);
  check(mask.dim() == 2 && mask.scalar_type() == ScalarType::Bool, "padded_sequences: mask has shape ", shape_of(mask),
        " and type ", torch::headeronly::toString(mask.scalar_type()), "; it must be [batch, keys] and Bool");
  const Tensor rows = torch::stable::contiguous(mask);
  const auto* row = static_cast<const bool*>(rows.const_data_ptr());
  std::vector<Range> real;
  for (Index b = 0; b < rows.size(0); ++b, row += rows.size(1)) real.push_back(run_of(row, rows.size(1), b));
  return tensor_of(hsattn::padded_sequences(real, queries, rows.size(1)), mask);
}

}  // namespace hsattn::torch_ops
