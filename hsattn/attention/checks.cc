#include "hsattn/attention/checks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <utility>

#include "hsattn/base/error.h"

namespace hsattn {
namespace {

constexpr Index kMostElements = Index{1} << 56;  // of one tensor; far above any memory, far below overflow

// Prints a shape; text is made only for a message that is thrown, as a call on a few tokens takes microseconds.
struct ShapeOf {
  const ConstView& view;
};
ShapeOf shape_of(const ConstView& view) { return {view}; }

std::ostream& operator<<(std::ostream& out, const ShapeOf& shape) {
  const ConstView& v = shape.view;
  return out << "[" << v.batch << ", " << v.heads << ", " << v.tokens << ", " << v.dim << "]";
}

// Sizes whose product, also with strides, stays below 2^56, so that no offset overflows.
void check_sizes(const char* who, const char* name, const ConstView& v) {
  check(v.batch >= 0 && v.heads >= 0 && v.tokens >= 0 && v.dim >= 0, who, ": ", name, " has shape ", shape_of(v),
        "; no size may be negative");
  check(v.batch_stride >= 0 && v.head_stride >= 0 && v.token_stride >= 0, who, ": ", name, " has strides ",
        v.batch_stride, ", ", v.head_stride, ", ", v.token_stride, "; none may be negative");
  double elements = 1, extent = 0;
  for (const auto& [size, stride] :
       {std::pair{v.batch, v.batch_stride}, {v.heads, v.head_stride}, {v.tokens, v.token_stride}, {v.dim, Index{1}}}) {
    elements *= static_cast<double>(size);
    extent += static_cast<double>(size) * static_cast<double>(stride);
  }
  check(elements < static_cast<double>(kMostElements) && extent < static_cast<double>(kMostElements), who, ": ", name,
        " has shape ", shape_of(v), " and strides ", v.batch_stride, ", ", v.head_stride, ", ", v.token_stride,
        "; it must span less than 2^56 elements");
  check(v.data != nullptr || v.elements() == 0, who, ": ", name, " has no memory; shape ", shape_of(v), " needs some");
}

void check_same(const char* who, const char* name, const ConstView& found, const char* like, const ConstView& right) {
  check_sizes(who, name, found);
  check(found.dtype == right.dtype, who, ": ", name, " is ", name_of(found.dtype), ", ", like, " is ",
        name_of(right.dtype), "; they must be equal");
  check(found.batch == right.batch && found.heads == right.heads && found.tokens == right.tokens &&
            found.dim == right.dim,
        who, ": ", name, " has shape ", shape_of(found), ", ", like, " has ", shape_of(right), "; they must be equal");
}

struct Bytes {
  const char* name;
  std::uintptr_t begin, end;
};

Bytes bytes_of(const char* name, const ConstView& v) {
  const auto begin = reinterpret_cast<std::uintptr_t>(v.data);
  if (v.elements() == 0) return {name, begin, begin};
  const Index last =
      (v.batch - 1) * v.batch_stride + (v.heads - 1) * v.head_stride + (v.tokens - 1) * v.token_stride + v.dim;
  return {name, begin, begin + static_cast<std::uintptr_t>(last * size_of(v.dtype))};
}

Bytes bytes_of_lse(const char* name, const void* lse, const ConstView& q) {
  const auto begin = reinterpret_cast<std::uintptr_t>(lse);
  const Index rows = lse == nullptr ? 0 : q.batch * q.heads * q.tokens;
  return {name, begin, begin + static_cast<std::uintptr_t>(rows * size_of(lse_type(q.dtype)))};
}

void check_apart(const char* who, const Bytes& written, std::initializer_list<Bytes> others) {
  for (const Bytes& other : others) {
    const bool overlap = written.begin < other.end && other.begin < written.end;
    check(!overlap, who, ": ", written.name, " shares memory with ", other.name, "; it must lie apart");
  }
}

// Outputs must not fold onto themselves, as expanded tensors do: from the smallest stride up, each must step over all
// that the ones below it span.
void check_not_folded(const char* who, const char* name, const ConstView& v) {
  if (v.elements() == 0) return;
  std::array<std::pair<Index, Index>, 3> axes{
      {{v.batch_stride, v.batch}, {v.head_stride, v.heads}, {v.token_stride, v.tokens}}};
  std::sort(axes.begin(), axes.end());
  Index span = v.dim;
  bool folded = false;
  for (const auto& [stride, size] : axes) {
    if (size == 1) continue;
    folded |= stride < span;
    span += (size - 1) * stride;
  }
  check(!folded, who, ": ", name, " has strides ", v.batch_stride, ", ", v.head_stride, ", ", v.token_stride,
        " for dimension ", v.dim, "; its elements must lie apart");
}

}  // namespace

void check_queries_and_keys(const char* who, const ConstView& q, const ConstView& k, std::optional<double> scale) {
  check_sizes(who, "q", q);
  check_sizes(who, "k", k);
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

void check_plan_fits(const char* who, const AttentionInputs& in, const PlanView& plan) {
  const PlanShape& s = plan.shape;
  check(s.batch == in.q.batch && s.kv_heads == in.k.heads && s.queries == in.q.tokens && s.keys == in.k.tokens, who,
        ": the plan is for batch ", s.batch, ", kv_heads ", s.kv_heads, ", queries ", s.queries, ", keys ", s.keys,
        "; the tensors have ", in.q.batch, ", ", in.k.heads, ", ", in.q.tokens, ", ", in.k.tokens);
  check_plan(plan);
}

void check_outputs(const char* who, const AttentionInputs& in, const AttentionOutputs& out) {
  const ConstView o = as_const(out.o);
  check_same(who, "o", o, "q", in.q);
  check_not_folded(who, "o", o);
  const Bytes lse = bytes_of_lse("lse", out.lse, in.q);
  const Bytes q = bytes_of("q", in.q), k = bytes_of("k", in.k), v = bytes_of("v", in.v);
  check_apart(who, bytes_of("o", o), {q, k, v, lse});
  check_apart(who, lse, {q, k, v});
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
                 bytes_of("o", saved.o), bytes_of_lse("lse", saved.lse, in.q)});
  }
  check_apart(who, bq, {bk, bv});
  check_apart(who, bk, {bv});
}

void check_saved_lse(const char* who, const AttentionInputs& in, const void* lse) {
  check(lse != nullptr || in.q.elements() == 0, who, ": lse has no memory; the forward pass must have kept it");
}

void check_memory_for_lists(const char* who, const std::int32_t* blocks, Index elements) {
  check(blocks != nullptr || elements == 0, who, ": blocks has no memory; the plan needs ", elements, " ids");
}

double scale_or_default(std::optional<double> scale, Index dim) {
  return scale.value_or(1.0 / std::sqrt(static_cast<double>(dim)));
}

}  // namespace hsattn
