// Attention over 8192 tokens: plan, look at the plan, attend.
#include <iostream>
#include <random>
#include <vector>

#include "hsattn/hsattn.h"

int main() {
  using namespace hsattn;
  const Index batch = 1, heads = 4, tokens = 8192, dim = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> q(batch * heads * tokens * dim), k(q.size()), v(q.size()), o(q.size());
  for (auto* tensor : {&q, &k, &v}) {
    for (float& x : *tensor) x = normal(random);
  }
  const auto read = [&](const std::vector<float>& x) {
    return contiguous_view<const void*>(x.data(), DType::kFloat32, batch, heads, tokens, dim);
  };
  const AttentionInputs in{.q = read(q), .k = read(k), .v = read(v), .scale = {}};
  const AttentionOutputs out{.o = contiguous_view<void*>(o.data(), DType::kFloat32, batch, heads, tokens, dim)};
  const PlanOptions options{.pattern = Pattern::kHsa, .causal = true, .hsa = HsaOptions::any_model()};
  const auto pool = make_thread_pool(0);  // one thread per processor

  const Plan plan = make_plan(in.q, in.k, options, in.scale, *pool);
  std::cout << describe(plan) << "\n";
  attention_forward(in, plan, out, *pool);
  std::cout << "kernel: " << chosen_kernel(in) << ", first value of the last token: " << o[(tokens - 1) * dim] << "\n";
}
