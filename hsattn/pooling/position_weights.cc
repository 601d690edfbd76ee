// Pooler::kLearnable: in each channel a softmax over two positions.
#include <cmath>

#include "hsattn/pooling/part.h"

namespace hsattn::pooling {
namespace {

class PositionWeights final : public PairRule {
 public:
  PositionWeights(const float* parameters, Index dim) : PairRule(dim), differences_(columns(), 0.0F) {
    for (Index side = 0; side < 2; ++side) {
      for (Index c = 0; c < dim; ++c) {
        differences_[at(side, c)] = parameters[side * dim + c] - parameters[(side + 2) * dim + c];
      }
    }
    shares_of_equals_ = shares(0);
  }

 private:
  void merge(const Children& from, float* to) const override {
    with_shares(from, [&](const float* share) {
      for (Index c = 0; c < width(); ++c) to[c] = share[c] * from.left[c] + (1 - share[c]) * from.right[c];
    });
  }

  // `sums` are slopes of the differences.
  void merge_backward(const Children& from, const float* gradient, const ChildGradients& to,
                      float* sums) const override {
    with_shares(from, [&](const float* share) {
      for (Index c = 0; c < width(); ++c) {
        to.left[c] += share[c] * gradient[c];
        to.right[c] += (1 - share[c]) * gradient[c];
        sums[c] += share[c] * (1 - share[c]) * (from.left[c] - from.right[c]) * gradient[c];
      }
    });
  }

  void add_sums(const float* sums, float* parameters) const override {
    for (Index side = 0; side < 2; ++side) {
      for (Index c = 0; c < dim(); ++c) {
        parameters[side * dim() + c] += sums[at(side, c)];
        parameters[(side + 2) * dim() + c] -= sums[at(side, c)];
      }
    }
  }

  std::size_t columns() const { return static_cast<std::size_t>(width()); }
  std::size_t at(Index side, Index c) const { return static_cast<std::size_t>(side * padded_dim() + c); }

  // The first child's share in each channel, if it has exp(log_ratio) times the tokens of the second.
  std::vector<float> shares(float log_ratio) const {
    std::vector<float> shares(columns());
    for (std::size_t c = 0; c < columns(); ++c) shares[c] = 1 / (1 + std::exp(-(differences_[c] + log_ratio)));
    return shares;
  }

  // Calls body with the shares of the first child.
  template <class Body>
  void with_shares(const Children& from, const Body& body) const {
    if (from.left_tokens == from.right_tokens) return body(shares_of_equals_.data());
    const float ratio = static_cast<float>(from.left_tokens) / static_cast<float>(from.right_tokens);
    body(shares(std::log(ratio)).data());
  }

  std::vector<float> differences_;  // [key, value]: the first position's weight less the second's
  std::vector<float> shares_of_equals_;
};

}  // namespace

std::unique_ptr<Rule> position_weights(const float* parameters, Index dim) {
  return std::make_unique<PositionWeights>(parameters, dim);
}

}  // namespace hsattn::pooling
