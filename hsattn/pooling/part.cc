#include "hsattn/pooling/part.h"

#include "hsattn/kernels/cpu/layout.h"

namespace hsattn::pooling {

Rule::Rule(Index dim) : dim_(dim), padded_(round_up(dim, cpu::kDimAlign)) {}

std::unique_ptr<Rule> make_rule(Pooler pooler, const float* parameters, Index dim, Index block) {
  if (pooler == Pooler::kLearnable) return position_weights(parameters, dim);
  if (pooler == Pooler::kAttentionPaper) return group_attention(parameters, dim, block);
  return key_weights(parameters, dim);
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
