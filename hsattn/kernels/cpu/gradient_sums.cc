#include "hsattn/kernels/cpu/gradient_sums.h"

#include <algorithm>
#include <cstring>

#include "hsattn/kernels/cpu/node_gradients.h"

namespace hsattn::cpu {

GradientSums::GradientSums(const PackedHead& head, bool far_field)
    : tokens(head.units * kUnit * head.padded_dim), nodes(far_field ? head.pyramid.rows() * head.padded_dim : 0) {
  const char* what = "attention_backward: sums of dk and dv";
  dk = allocate_buffer<float>(tokens, what);
  dv = allocate_buffer<float>(tokens, what);
  dk_nodes = allocate_buffer<float>(nodes, what);
  dv_nodes = allocate_buffer<float>(nodes, what);
}

void GradientSums::clear() {
  for (const auto& [sums, count] :
       {std::pair{dk.get(), tokens}, {dv.get(), tokens}, {dk_nodes.get(), nodes}, {dv_nodes.get(), nodes}}) {
    std::memset(sums, 0, static_cast<std::size_t>(count) * sizeof(float));
  }
}

namespace {

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

}  // namespace

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

}  // namespace hsattn::cpu
