#include "hsattn/attention/checks.h"

#include <cmath>
#include <utility>

#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/kernels/pool.h"

namespace hsattn {

void check_queries_and_keys(const char* who, const ConstView& q, const ConstView& k, std::optional<double> scale) {
  check_view(who, "q", q);
  check_view(who, "k", k);
  check(k.dtype == q.dtype, who, ": k is ", name_of(k.dtype), ", q is ", name_of(q.dtype), "; they must be equal");
  check(k.batch == q.batch, who, ": k has batch ", k.batch, ", q has ", q.batch, "; they must be equal");
  check(k.dim == q.dim, who, ": k has head dimension ", k.dim, ", q has ", q.dim, "; they must be equal");
  check(q.dim >= 8 && q.dim <= 256, who, ": q has head dimension ", q.dim, "; it must be from 8 to 256");
  check(k.heads == 0 ? q.heads == 0 : q.heads % k.heads == 0, who, ": q has ", q.heads, " heads, k has ", k.heads,
        "; the first must be a multiple of the second");
  check(!scale || std::isfinite(*scale), who, ": scale is ", scale.value_or(0), "; it must be finite");
}

void check_inputs(const char* who, const AttentionInputs& in) {
  check_queries_and_keys(who, in.q, in.k, in.scale);
  check_same(who, "v", in.v, "k", in.k);
}

void check_nodes(const char* who, const char* name, const ConstView& nodes, const ConstView& k, Index block) {
  ConstView right = k;
  right.tokens = pyramid_nodes(ceil_div(k.tokens, block));
  right.dtype = node_type(k.dtype);
  check_same(who, name, nodes, "the pyramid of k", right);
}

void check_no_parts(const char* who, const PlanShape& shape) {
  check(shape.parts == 1, who, ": parts is ", shape.parts, " and nodes are given, which come whole; parts must be 1");
}

void check_pooled(const char* who, const AttentionInputs& in, const PlanShape& shape) {
  if (!in.pooled) return;
  check_no_parts(who, shape);
  check_nodes(who, "pooled k", in.pooled->k, in.k, shape.node);
  check_nodes(who, "pooled v", in.pooled->v, in.k, shape.node);
}

void check_plan_fits(const char* who, const AttentionInputs& in, const PlanView& plan) {
  const PlanShape& s = plan.shape;
  check(s.batch == in.q.batch && s.kv_heads == in.k.heads && s.queries == in.q.tokens && s.keys == in.k.tokens, who,
        ": the plan is for batch ", s.batch, ", kv_heads ", s.kv_heads, ", queries ", s.queries, ", keys ", s.keys,
        "; the tensors have ", in.q.batch, ", ", in.k.heads, ", ", in.q.tokens, ", ", in.k.tokens);
  check_plan(plan);
  if (s.tail > 0) {
    throw Unsupported(concat(who, ": the plan has a tail of ", s.tail, ", which a search finds anew and which has no ",
                             "gradient; forward passes without a given plan have it, all else needs tail = 0"));
  }
  check_pooled(who, in, s);
}

void check_outputs(const char* who, const AttentionInputs& in, const AttentionOutputs& out) {
  const ConstView o = as_const(out.o);
  check_same(who, "o", o, "q", in.q);
  check_not_folded(who, "o", o);
  const Bytes lse = bytes_of_lse(out.lse, in.q);
  const Bytes q = bytes_of("q", in.q), k = bytes_of("k", in.k), v = bytes_of("v", in.v);
  check_apart(who, bytes_of("o", o), {q, k, v, lse});
  check_apart(who, lse, {q, k, v});
  if (!in.pooled) return;
  const Bytes pooled_k = bytes_of("pooled k", in.pooled->k), pooled_v = bytes_of("pooled v", in.pooled->v);
  check_apart(who, bytes_of("o", o), {pooled_k, pooled_v});
  check_apart(who, lse, {pooled_k, pooled_v});
}

void check_gradients(const char* who, const AttentionInputs& in, const AttentionSaved& saved,
                     const AttentionGradients& grads) {
  check_same(who, "dout", saved.dout, "q", in.q);
  check_same(who, "o", saved.o, "q", in.q);
  const ConstView dq = as_const(grads.dq), dk = as_const(grads.dk), dv = as_const(grads.dv);
  check_same(who, "dq", dq, "q", in.q);
  check_same(who, "dk", dk, "k", in.k);
  check_same(who, "dv", dv, "v", in.v);
  const Bytes bq = bytes_of("dq", dq), bk = bytes_of("dk", dk), bv = bytes_of("dv", dv);
  for (const auto& [bytes, view] : {std::pair{bq, dq}, {bk, dk}, {bv, dv}}) {
    check_not_folded(who, bytes.name, view);
    check_apart(who, bytes,
                {bytes_of("q", in.q), bytes_of("k", in.k), bytes_of("v", in.v), bytes_of("dout", saved.dout),
                 bytes_of("o", saved.o), bytes_of_lse(saved.lse, in.q)});
  }
  check_apart(who, bq, {bk, bv});
  check_apart(who, bk, {bv});
}

void check_gradients_of_pooled(const char* who, const AttentionInputs& in, bool far_field, const AttentionSaved& saved,
                               const AttentionGradients& grads) {
  check(!grads.dpooled || in.pooled, who, ": gradients of pooled keys and values are asked for, but none are given");
  check(!grads.dpooled || far_field, who,
        ": gradients of pooled keys and values are asked for, but the far field is off; they get one through it alone");
  if (!in.pooled) return;
  const Bytes pooled_k = bytes_of("pooled k", in.pooled->k), pooled_v = bytes_of("pooled v", in.pooled->v);
  const Bytes dq = bytes_of("dq", as_const(grads.dq)), dk = bytes_of("dk", as_const(grads.dk)),
              dv = bytes_of("dv", as_const(grads.dv));
  for (const Bytes& written : {dq, dk, dv}) check_apart(who, written, {pooled_k, pooled_v});
  check(grads.dpooled || !far_field, who,
        ": pooled keys and values are given and the far field is on, but there is no ", "memory for their gradients");
  if (!grads.dpooled) return;
  const ConstView dpooled_k = as_const(grads.dpooled->k), dpooled_v = as_const(grads.dpooled->v);
  check_same(who, "the gradient of pooled k", dpooled_k, "pooled k", in.pooled->k);
  check_same(who, "the gradient of pooled v", dpooled_v, "pooled v", in.pooled->v);
  const Bytes bk = bytes_of("the gradient of pooled k", dpooled_k),
              bv = bytes_of("the gradient of pooled v", dpooled_v);
  for (const auto& [bytes, view] : {std::pair{bk, dpooled_k}, {bv, dpooled_v}}) {
    check_not_folded(who, bytes.name, view);
    check_apart(who, bytes,
                {bytes_of("q", in.q), bytes_of("k", in.k), bytes_of("v", in.v), pooled_k, pooled_v, dq, dk, dv,
                 bytes_of("dout", saved.dout), bytes_of("o", saved.o), bytes_of_lse(saved.lse, in.q)});
  }
  check_apart(who, bk, {bv});
}

void check_saved_lse(const char* who, const AttentionInputs& in, const void* lse) {
  check(lse != nullptr || in.q.elements() == 0, who, ": lse has no memory; the forward pass must have kept it");
}

Bytes bytes_of_lse(const void* lse, const ConstView& q) {
  return bytes_of("lse", lse, q.batch * q.heads * q.tokens, lse_type(q.dtype));
}

void check_memory_for_lists(const char* who, const std::int32_t* blocks, Index elements) {
  check(blocks != nullptr || elements == 0, who, ": blocks has no memory; the plan needs ", elements, " ids");
}

double scale_or_default(std::optional<double> scale, Index dim) {
  return scale.value_or(1.0 / std::sqrt(static_cast<double>(dim)));
}

}  // namespace hsattn
