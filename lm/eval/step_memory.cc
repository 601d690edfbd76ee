#include "lm/eval/step_memory.h"

#include <algorithm>

namespace hsattn::lm {
namespace {

constexpr double kFloat = 4, kGib = 1024.0 * 1024 * 1024;

}  // namespace

double step_memory_gib(const ModelConfig& config, const std::string& attention, Index batch, Index tokens,
                       bool checkpointing) {
  const auto n = static_cast<double>(tokens), rows = static_cast<double>(batch) * n;
  const auto layers = static_cast<double>(config.layers), kept = checkpointing ? 1 : layers;  // blocks kept whole
  const auto width = static_cast<double>(config.width), inner = static_cast<double>(config.inner());
  // What a block keeps for its backward pass, in floats per token, and one more block's worth in flight. Measured at
  // 2048 and 8192 tokens, 1 to 4 layers of 384, as the growth of the process in `hsattn bench-step`: the result is 1.2
  // to 1.8 times that, most for one layer.
  const double block = kFloat * rows * (20 * width + 5 * inner);
  double bytes = (kept + 1) * block + layers * kFloat * rows * width;
  if (attention == "standard") {
    // The softmax of each kept layer stays, with its mask; two more of the size while one is computed or derived.
    const double scores = kFloat * rows * static_cast<double>(config.heads) * n;
    bytes += (kept + 2) * scores + (kept + 1) * n * n;
  }
  AttentionOptions named = config.attention;
  named.attention = attention;
  if (named.ours() && attention != "full" && attention != "local") {
    const HsaOptions& hsa = config.attention.hsa;
    const auto listed = static_cast<double>(attention == "hsa" ? std::max(hsa.top_k, hsa.candidates) : hsa.top_k);
    bytes += (kept + 1) * kFloat * rows * static_cast<double>(config.key_heads()) * listed /
             static_cast<double>(std::max<Index>(hsa.block, 1));
  }
  bytes += 7 * kFloat * static_cast<double>(config.parameters());  // weights, moments, gradients, and copies
  return 1.1 * bytes / kGib;
}

}  // namespace hsattn::lm
