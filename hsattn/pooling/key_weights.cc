// Pooler::kAttention. Besides key and value a row holds the logarithm of its mass, log sum exp(w.key) over its tokens:
// two nodes merge by their masses into exactly the softmax over all their tokens.
#include <cmath>
#include <utility>

#include "hsattn/pooling/part.h"

namespace hsattn::pooling {
namespace {

class KeyWeights final : public PairRule {
 public:
  KeyWeights(const float* parameters, Index dim) : PairRule(dim), weights_(parameters, parameters + dim) {}

  Index width() const override { return 2 * padded_dim() + 16; }

  void prepare(const Level& tokens) const override {
    for (Index t = 0; t < tokens.count; ++t) {
      float* row = tokens.rows + t * width();
      float score = 0;
      for (Index c = 0; c < dim(); ++c) score += weights_[static_cast<std::size_t>(c)] * row[c];
      row[mass()] = score;
    }
  }

  void prepare_backward(const Level& tokens, float* parameters) const override {
    for (Index t = 0; t < tokens.count; ++t) {
      const float* row = tokens.rows + t * width();
      float* gradient = tokens.gradients + t * width();
      const float slope = gradient[mass()];
      if (slope == 0) continue;
      for (Index c = 0; c < dim(); ++c) {
        parameters[c] += slope * row[c];
        gradient[c] += slope * weights_[static_cast<std::size_t>(c)];
      }
    }
  }

 private:
  void merge(const Children& from, float* to) const override {
    const auto [left, right] = std::pair{from.left, from.right};
    const Shares share = shares(left[mass()], right[mass()]);
    for (Index c = 0; c < mass(); ++c) to[c] = share.left * left[c] + share.right * right[c];
    to[mass()] = std::max(left[mass()], right[mass()]) - std::log(std::max(share.left, share.right));
  }

  void merge_backward(const Children& from, const float* gradient, const ChildGradients& to, float*) const override {
    const auto [left, right] = std::pair{from.left, from.right};
    const Shares share = shares(left[mass()], right[mass()]);
    float slope = 0;  // of the left share
    for (Index c = 0; c < mass(); ++c) {
      to.left[c] += share.left * gradient[c];
      to.right[c] += share.right * gradient[c];
      slope += gradient[c] * (left[c] - right[c]);
    }
    slope *= share.left * share.right;
    to.left[mass()] += slope + share.left * gradient[mass()];
    to.right[mass()] += share.right * gradient[mass()] - slope;
  }

  struct Shares {
    float left, right;
  };
  static Shares shares(float left, float right) {
    const float ratio = std::exp(-std::abs(left - right));
    const float large = 1 / (1 + ratio), small = ratio / (1 + ratio);
    return left >= right ? Shares{large, small} : Shares{small, large};
  }
  Index mass() const { return 2 * padded_dim(); }

  std::vector<float> weights_;
};

}  // namespace

std::unique_ptr<Rule> key_weights(const float* parameters, Index dim) {
  return std::make_unique<KeyWeights>(parameters, dim);
}

}  // namespace hsattn::pooling
