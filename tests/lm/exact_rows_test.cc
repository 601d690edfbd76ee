#include "lm/eval/exact_rows.h"

#include <gtest/gtest.h>

#include "hsattn/pooling/pooler.h"
#include "lm/model/attention.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

Tensor noise(at::IntArrayRef sizes, int seed) {
  const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  return at::empty(sizes, at::kFloat).normal_(0, 1, generator);
}

PlanOptions small_options() {
  PlanOptions options{Pattern::kHsa, true, {}};
  options.hsa = {.window = 8,
                 .top_k = 16,
                 .candidates = 32,
                 .block = 4,
                 .sinks = 4,
                 .top_nodes = 8,
                 .beam = 4,
                 .dense_until = 0,
                 .far_field = true};
  return options;
}

double difference(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

// Term by term over the nodes of a pooler, rows are what the kernels give; over means in their place they are not.
TEST(ExactRows, OverNodesOfAPoolerAreThoseOfTheKernel) {
  const PlanOptions options = small_options();
  const Tensor q = noise({1, 2, 203, 16}, 1), k = noise({1, 1, 203, 16}, 2), v = noise({1, 1, 203, 16}, 3);
  for (const Pooler pooler : {Pooler::kAttention, Pooler::kAttentionPaper, Pooler::kLearnable}) {
    SCOPED_TRACE(name_of(pooler));
    const Tensor parameters = initial_pooler(pooler, 16).view({-1, 16});
    const Tensor moved = parameters + 0.3 * noise(parameters.sizes(), 4);
    const Pooled pooled = op_pool_forward(name_of(pooler), options.hsa.block, k, v, moved);
    const Tensor kept = plan_of(options, q, k, pooled);
    const auto [o, lse, lists] = op_forward(options, q, k, v, true, kept, pooled);
    const PlanView plan = plan_view(options, q, k, kept);
    const ExactNodes nodes{pooled.k[0][0].to(at::kDouble), pooled.v[0][0].to(at::kDouble), plan.shape.block};
    const Tensor key = k[0][0].to(at::kDouble), value = v[0][0].to(at::kDouble);
    double apart_without = 0;
    for (const Index p : {0, 50, 101, 150, 202}) {
      const std::vector<Span> spans = spans_of(plan, 0, 0, p);
      const Tensor query = q[0][1][p].to(at::kDouble), right = o[0][1][p].to(at::kDouble);
      EXPECT_LE(difference(exact_row(query, key, value, spans, Pooling::kMean, &nodes).output, right), 1e-5) << p;
      apart_without = std::max(apart_without, difference(exact_row(query, key, value, spans).output, right));
    }
    EXPECT_GT(apart_without, 1e-3);
  }
}

}  // namespace
}  // namespace hsattn::lm
