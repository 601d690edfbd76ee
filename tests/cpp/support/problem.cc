#include "support/problem.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "hsattn/base/error.h"

namespace hsattn::testing {
namespace {

void fill(Tensor<float>& tensor, Random& random, float correlation) {
  std::normal_distribution<float> normal;
  const float fresh = std::sqrt(1 - correlation * correlation);
  tensor.for_each([&](float& x, Index b, Index h, Index t, Index c) {
    const float before = t == 0 ? normal(random) : tensor.row(b, h, t - 1)[c];
    x = correlation * before + fresh * normal(random);
  });
  tensor.for_each([](float& x, Index, Index, Index, Index) { x = as_stored(x); });
}

template <class T>
Tensors<T> converted_tensors(const Tensors<float>& in, Layout layout) {
  return {converted<T>(in.q, layout), converted<T>(in.k, layout), converted<T>(in.v, layout),
          converted<T>(in.dout, layout)};
}

template <class T>
Tensor<float> checked_floats(const Tensor<T>& from, Layout layout) {
  check(padding_is_untouched(from), "something was written between the rows of an output");
  return converted<float>(from, layout);
}

// body(T{}) for the type in which tensors of T are handed over.
template <class T, class Body>
void with_stored_type(const Body& body) {
  if constexpr (std::is_same_v<T, float>) {
    with_element_type(stored_type(), body);
  } else {
    body(T{});
  }
}

}  // namespace

Index uniform(Random& random, Index low, Index high) { return std::uniform_int_distribution<Index>(low, high)(random); }

double Problem::scale_used() const { return scale.value_or(1.0 / std::sqrt(static_cast<double>(dim))); }

std::string describe(const Problem& p) {
  const HsaOptions& o = p.options.hsa;
  return concat(p.name, ": ", name_of(p.options.pattern), p.options.causal ? " causal" : " bidirectional", ", batch ",
                p.batch, ", heads ", p.heads, "/", p.kv_heads, ", queries ", p.queries, ", keys ", p.keys, ", dim ",
                p.dim, ", layout ", static_cast<int>(p.layout), ", window ", o.window, ", top_k ", o.top_k,
                ", candidates ", o.candidates, ", block ", o.block, ", sinks ", o.sinks, ", top_nodes ", o.top_nodes,
                ", beam ", o.beam, ", dense_until ", o.dense_until, ", far_field ", o.far_field, ", levels ", o.levels,
                ", pooling ", name_of(o.pooling), ", mass ", o.mass, ", min_top_k ", o.min_top_k, ", stride ", o.stride,
                ", dilation ", o.dilation, ", pattern_seed ", o.pattern_seed, ", node ", o.node, ", tail ", o.tail,
                ", parts ", o.parts, ", head_top_k ", ::testing::PrintToString(o.head_top_k));
}

HsaOptions smallest_budgets(bool far_field) {
  return {.window = 8,
          .top_k = 16,
          .candidates = 32,
          .block = 4,
          .sinks = 4,
          .top_nodes = 8,
          .beam = 4,
          .dense_until = 0,
          .far_field = far_field};
}

void choose_node(Random& random, HsaOptions& o) {
  o.node = o.far_field || o.candidates <= o.top_k ? 0 : std::min<Index>(64, o.block << uniform(random, 0, 3));
  o.parts = std::min(std::max(o.node, o.block), Index{1} << o.beam % 3);
}

void choose_head_budgets(Random& random, Problem& p) {
  if (p.options.pattern != Pattern::kHsa || uniform(random, 0, 2) > 0) return;
  HsaOptions& o = p.options.hsa;
  for (Index head = 0; head < p.kv_heads; ++head) o.head_top_k.push_back(uniform(random, 1, o.top_k));
}

PlanOptions searching_options(Random& random, bool causal) {
  PlanOptions options{Pattern::kHsa, causal, {}};
  options.hsa.block = one_of<Index>(random, {4, 8});
  options.hsa.window = one_of<Index>(random, {8, 16});
  options.hsa.top_k = one_of<Index>(random, {16, 24, 32, 64});
  options.hsa.candidates = one_of<Index>(random, {32, 48, 64, 128});
  options.hsa.beam = uniform(random, 2, 8);
  options.hsa.top_nodes = 8;
  options.hsa.dense_until = 0;
  options.hsa.far_field = uniform(random, 0, 1) == 1;
  options.hsa.pooling = one_of(random, {Pooling::kMean, Pooling::kMean, Pooling::kMax});
  options.hsa.mass = one_of(random, {0.0, 0.0, 0.5, 0.9});
  options.hsa.min_top_k = one_of<Index>(random, {1, 8, 16});
  choose_node(random, options.hsa);
  return options;
}

PlanOptions listing_options(Random& random, bool causal) {
  PlanOptions options = searching_options(random, causal);
  options.pattern = kListingPatterns[uniform(random, 0, std::ssize(kListingPatterns) - 1)];
  options.hsa.sinks = uniform(random, 0, 12);
  options.hsa.stride = one_of<Index>(random, {0, 0, 16, 40});
  options.hsa.dilation = uniform(random, 1, 3);
  options.hsa.pattern_seed = uniform(random, 0, 1000);
  return options;
}

PlanOptions selecting_options(Random& random, bool causal) {
  return uniform(random, 0, 2) == 0 ? listing_options(random, causal) : searching_options(random, causal);
}

Tensors<float> random_tensors(const Problem& p, std::uint64_t seed) {
  Random random(seed);
  Tensors<float> in{Tensor<float>(p.batch, p.heads, p.queries, p.dim, p.layout),
                    Tensor<float>(p.batch, p.kv_heads, p.keys, p.dim, p.layout),
                    Tensor<float>(p.batch, p.kv_heads, p.keys, p.dim, p.layout),
                    Tensor<float>(p.batch, p.heads, p.queries, p.dim, p.layout)};
  fill(in.q, random, 0.9F);
  fill(in.k, random, 0.5F);
  fill(in.v, random, 0);
  fill(in.dout, random, 0);
  return in;
}

DType stored_type() {
  static const DType type = [] {
    const char* name = std::getenv("HSATTN_TEST_TYPE");
    if (name == nullptr) return DType::kFloat32;
    for (const DType type : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      if (std::string(name) == name_of(type)) return type;
    }
    throw InvalidArgument(concat("HSATTN_TEST_TYPE is '", name, "'; it must be float32, bfloat16 or float16"));
  }();
  return type;
}

float as_stored(float x) {
  with_element_type(stored_type(), [&](auto element) { x = static_cast<float>(decltype(element)(x)); });
  return x;
}

double rounding_floor(double largest) {
  if (stored_type() == DType::kFloat32) return 1e-5;
  const int digits = stored_type() == DType::kBFloat16 ? 7 : 10;  // behind the leading one
  return std::ldexp(1.0, std::ilogb(std::max(1.0, largest)) - digits);
}

Tensors<double> in_double(const Tensors<float>& in) {
  Tensors<float> stored = in;
  for (Tensor<float>* tensor : {&stored.q, &stored.k, &stored.v, &stored.dout}) {
    tensor->for_each([](float& x, Index, Index, Index, Index) { x = as_stored(x); });
  }
  return converted_tensors<double>(stored, Layout::kContiguous);
}

template <class T>
Plan plan_of(const Problem& p, const Tensors<T>& in, Executor& executor) {
  Plan plan;
  with_stored_type<T>([&](auto element) {
    using Stored = decltype(element);
    if constexpr (std::is_same_v<T, Stored>) {
      plan = make_plan(in.q.view(), in.k.view(), p.options, p.scale, executor);
    } else {
      const auto q = converted<Stored>(in.q, p.layout), k = converted<Stored>(in.k, p.layout);
      plan = make_plan(q.view(), k.view(), p.options, p.scale, executor);
    }
  });
  return plan;
}

namespace {

// How a problem is solved: with a plan, or in one pass that keeps its lists.
struct Request {
  const PlanView* plan = nullptr;
  std::int32_t* keep = nullptr;
  bool gradients = false;
};

// Solves in the type of the tensors.
template <class T, class Lse>
void solve_stored(const Problem& p, const Tensors<T>& in, const Request& request, Executor& executor,
                  std::vector<Lse>& lse, Tensor<T>* o, Tensor<T>* dq, Tensor<T>* dk, Tensor<T>* dv) {
  *o = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  lse.assign(static_cast<std::size_t>(p.batch * p.heads * p.queries), std::numeric_limits<Lse>::quiet_NaN());
  if (request.plan == nullptr) {
    return attention_forward(in.inputs(p), p.options, {o->view(), lse.data()}, request.keep, executor);
  }
  attention_forward(in.inputs(p), *request.plan, {o->view(), lse.data()}, executor);
  if (!request.gradients) return;
  *dq = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  *dk = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  *dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  const AttentionSaved saved{in.dout.view(), as_const(o->view()), lse.data()};
  attention_backward(in.inputs(p), *request.plan, saved, {dq->view(), dk->view(), dv->view()}, executor);
}

template <class T>
Solution<T> solve_any(const Problem& p, const Tensors<T>& in, const Request& request, Executor& executor) {
  Solution<T> out;
  with_stored_type<T>([&](auto element) {
    using Stored = decltype(element);
    if constexpr (std::is_same_v<T, Stored>) {
      solve_stored(p, in, request, executor, out.lse, &out.o, &out.dq, &out.dk, &out.dv);
    } else if constexpr (std::is_same_v<T, float> && sizeof(Stored) == 2) {
      const Tensors<Stored> stored = converted_tensors<Stored>(in, p.layout);
      Tensor<Stored> o, dq, dk, dv;
      solve_stored(p, stored, request, executor, out.lse, &o, &dq, &dk, &dv);
      out.o = checked_floats(o, p.layout);
      if (!request.gradients) return;
      out.dq = checked_floats(dq, p.layout);
      out.dk = checked_floats(dk, p.layout);
      out.dv = checked_floats(dv, p.layout);
    }
  });
  return out;
}

}  // namespace

template <class T>
Solution<T> solve_forward(const Problem& p, const Tensors<T>& in, const PlanView& plan, Executor& executor) {
  return solve_any<T>(p, in, {&plan}, executor);
}

template <class T>
Solution<T> solve(const Problem& p, const Tensors<T>& in, const PlanView& plan, Executor& executor) {
  return solve_any<T>(p, in, {&plan, nullptr, true}, executor);
}

Solution<float> solve_in_one_pass(const Problem& p, const Tensors<float>& in, std::int32_t* keep) {
  return solve_any<float>(p, in, {nullptr, keep}, serial_executor());
}

template Plan plan_of(const Problem&, const Tensors<float>&, Executor&);
template Plan plan_of(const Problem&, const Tensors<double>&, Executor&);
template Solution<float> solve_forward(const Problem&, const Tensors<float>&, const PlanView&, Executor&);
template Solution<double> solve_forward(const Problem&, const Tensors<double>&, const PlanView&, Executor&);
template Solution<float> solve(const Problem&, const Tensors<float>&, const PlanView&, Executor&);
template Solution<double> solve(const Problem&, const Tensors<double>&, const PlanView&, Executor&);
template Plan plan_of(const Problem&, const Tensors<BFloat16>&, Executor&);
template Solution<BFloat16> solve(const Problem&, const Tensors<BFloat16>&, const PlanView&, Executor&);
template Plan plan_of(const Problem&, const Tensors<Float16>&, Executor&);
template Solution<Float16> solve(const Problem&, const Tensors<Float16>&, const PlanView&, Executor&);

}  // namespace hsattn::testing
