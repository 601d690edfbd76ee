// Uses an installed hsattn: attention over 256 tokens whose values are all 1, so that each output is 1, too.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <vector>

#include "hsattn/hsattn.h"

int main() {
  using namespace hsattn;
  const Index heads = 2, tokens = 256, dim = 32;
  std::vector<float> q(heads * tokens * dim), v(q.size(), 1.0F), o(q.size());
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = std::sin(static_cast<float>(i));
  const auto read = [&](const std::vector<float>& x) {
    return contiguous_view<const void*>(x.data(), DType::kFloat32, 1, heads, tokens, dim);
  };
  const AttentionInputs in{.q = read(q), .k = read(q), .v = read(v), .scale = {}};
  const AttentionOutputs out{.o = contiguous_view<void*>(o.data(), DType::kFloat32, 1, heads, tokens, dim)};
  const auto pool = make_thread_pool(2);
  attention_forward(in, PlanOptions{}, out, nullptr, *pool);

  float worst = 0;
  for (const float x : o) worst = std::max(worst, std::abs(x - 1));
  std::cout << "hsattn " HSATTN_VERSION_STRING << ", kernel " << chosen_kernel(in) << ", largest error " << worst
            << "\n";
  try {
    pattern_from_name("dense");
  } catch (const InvalidArgument& error) {
    std::cout << "refused: " << error.what() << "\n";
  }
  return worst < 1e-6F ? 0 : 1;
}
