#include "hsattn/pooling/part.h"

#include "hsattn/kernels/cpu/layout.h"

namespace hsattn::pooling {

Rule::Rule(Index dim) : dim_(dim), padded_(round_up(dim, cpu::kDimAlign)) {}

std::unique_ptr<Rule> make_rule(Pooler pooler, const float* parameters, Index dim, Index block) {
  if (pooler == Pooler::kLearnable) return position_weights(parameters, dim);
  if (pooler == Pooler::kAttentionPaper) return group_attention(parameters, dim, block);
  return key_weights(parameters, dim);
}

void PairRule::pool(const Step& step) const {
  for (Index i = 0; i < step.above.count; ++i) {
    const float* left = step.below.rows + step.first(i) * width();
    float* out = step.above.rows + i * width();
    if (step.count(i) == 1) {
      std::copy_n(left, width(), out);
    } else {
      merge(children(step, i), out);
    }
  }
}

void PairRule::pool_backward(const Step& step, float* parameters) const {
  std::vector<float> sums(static_cast<std::size_t>(2 * padded_dim()), 0.0F);
  for (Index i = 0; i < step.above.count; ++i) {
    const float* gradient = step.above.gradients + i * width();
    if (all_zero(gradient, width())) continue;
    float* left = step.below.gradients + step.first(i) * width();
    if (step.count(i) == 1) {
      for (Index c = 0; c < width(); ++c) left[c] += gradient[c];
    } else {
      merge_backward(children(step, i), gradient, {left, left + width()}, sums.data());
    }
  }
  add_sums(sums.data(), parameters);
}

PairRule::Children PairRule::children(const Step& step, Index i) const {
  const Index first = step.first(i);
  const float* left = step.below.rows + first * width();
  return {left, left + width(), step.below.tokens_behind(first, step.tokens),
          step.below.tokens_behind(first + 1, step.tokens)};
}

Part::Part(const std::vector<Index>& sizes, Index tokens, Index width, bool backward) : width_(width) {
  for (const Index size : sizes) levels_.push_back({.size = size});
  rows_ = 0;
  for (const Level& level : levels_) rows_ += ceil_div(tokens, level.size);
  const char* what = "pooling: rows of a part";
  values_ = allocate_buffer<float>(rows_ * width, what);
  if (backward) gradients_ = allocate_buffer<float>(rows_ * width, what);
  resize(tokens);
}

void Part::resize(Index tokens) {
  tokens_ = tokens;
  rows_ = 0;
  for (Level& level : levels_) {
    level.count = ceil_div(tokens, level.size);
    level.rows = values_.get() + rows_ * width_;
    level.gradients = gradients_ ? gradients_.get() + rows_ * width_ : nullptr;
    rows_ += level.count;
  }
}

void Part::pool(const Rule& rule) const {
  for (Index l = 1; l < levels(); ++l) rule.pool({level(l - 1), level(l), tokens_});
}

void Part::clear_gradients() const { std::fill_n(gradients_.get(), rows_ * width_, 0.0F); }

void Part::pool_backward(const Rule& rule, float* parameters) const {
  for (Index l = levels() - 1; l > 0; --l) rule.pool_backward({level(l - 1), level(l), tokens_}, parameters);
}

}  // namespace hsattn::pooling
