// Pooler::kLearnable: in each channel a softmax over two positions.
#include <cmath>

#include "hsattn/pooling/part.h"

namespace hsattn::pooling {
namespace {

class PositionWeights final : public Rule {
 public:
  PositionWeights(const float* parameters, Index dim) : Rule(dim), differences_(columns(), 0.0F) {
    for (Index side = 0; side < 2; ++side) {
      for (Index c = 0; c < dim; ++c) {
        differences_[at(side, c)] = parameters[side * dim + c] - parameters[(side + 2) * dim + c];
      }
    }
    shares_of_equals_ = shares(0);
  }

  void pool(const Step& step) const override {
    for (Index i = 0; i < step.above.count; ++i) {
      const float* left = step.below.rows + step.first(i) * width();
      float* out = step.above.rows + i * width();
      if (step.count(i) == 1) {
        std::copy_n(left, width(), out);
        continue;
      }
      const float* right = left + width();
      with_shares(step, i, [&](const float* share) {
        for (Index c = 0; c < width(); ++c) out[c] = share[c] * left[c] + (1 - share[c]) * right[c];
      });
    }
  }

  void pool_backward(const Step& step, float* parameters) const override {
    std::vector<float> slopes(columns(), 0.0F);  // of the differences
    for (Index i = 0; i < step.above.count; ++i) {
      const float* gradient = step.above.gradients + i * width();
      if (all_zero(gradient, width())) continue;
      float* to_left = step.below.gradients + step.first(i) * width();
      if (step.count(i) == 1) {
        for (Index c = 0; c < width(); ++c) to_left[c] += gradient[c];
        continue;
      }
      const float* left = step.below.rows + step.first(i) * width();
      const float* right = left + width();
      float* to_right = to_left + width();
      with_shares(step, i, [&](const float* share) {
        for (Index c = 0; c < width(); ++c) {
          to_left[c] += share[c] * gradient[c];
          to_right[c] += (1 - share[c]) * gradient[c];
          slopes[static_cast<std::size_t>(c)] += share[c] * (1 - share[c]) * (left[c] - right[c]) * gradient[c];
        }
      });
    }
    for (Index side = 0; side < 2; ++side) {
      for (Index c = 0; c < dim(); ++c) {
        parameters[side * dim() + c] += slopes[at(side, c)];
        parameters[(side + 2) * dim() + c] -= slopes[at(side, c)];
      }
    }
  }

 private:
  std::size_t columns() const { return static_cast<std::size_t>(width()); }
  std::size_t at(Index side, Index c) const { return static_cast<std::size_t>(side * padded_dim() + c); }

  // The first child's share in each channel, if it has exp(log_ratio) times the tokens of the second.
  std::vector<float> shares(float log_ratio) const {
    std::vector<float> shares(columns());
    for (std::size_t c = 0; c < columns(); ++c) shares[c] = 1 / (1 + std::exp(-(differences_[c] + log_ratio)));
    return shares;
  }

  // Calls body(shares) for row i, which has two children.
  template <class Body>
  void with_shares(const Step& step, Index i, const Body& body) const {
    const Index left = step.below.tokens_behind(step.first(i), step.tokens);
    const Index right = step.below.tokens_behind(step.first(i) + 1, step.tokens);
    if (left == right) return body(shares_of_equals_.data());
    body(shares(std::log(static_cast<float>(left) / static_cast<float>(right))).data());
  }

  std::vector<float> differences_;  // [key, value]: the first position's weight less the second's
  std::vector<float> shares_of_equals_;
};

}  // namespace

std::unique_ptr<Rule> position_weights(const float* parameters, Index dim) {
  return std::make_unique<PositionWeights>(parameters, dim);
}

}  // namespace hsattn::pooling
