// A part of the pyramid as rows of floats: what the poolers compute on.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "hsattn/base/buffer.h"
#include "hsattn/pooling/pooler.h"

namespace hsattn::pooling {

// Rows of one level in a part of `tokens` tokens: row i stands for tokens [i size, (i + 1) size) of those that exist. A
// row holds a key, a value and what else its pooler needs.
struct Level {
  Index size = 0, count = 0;
  float* rows = nullptr;       // [count, width]
  float* gradients = nullptr;  // the same; null in forward

  Index tokens_behind(Index i, Index tokens) const { return std::min(size, tokens - i * size); }
};

// Two levels of a part, one above the other.
struct Step {
  const Level& below;
  const Level& above;
  Index tokens;

  // Children of row i of `above`: [first(i), first(i) + count(i)) of `below`.
  Index fan_out() const { return above.size / below.size; }
  Index first(Index i) const { return i * fan_out(); }
  Index count(Index i) const { return std::min(fan_out(), below.count - first(i)); }
};

// How one pooler computes. Floats of a row: the key at 0, the value at padded dim; zeros behind dim.
class Rule {
 public:
  explicit Rule(Index dim);
  virtual ~Rule() = default;
  Rule(const Rule&) = delete;
  Rule& operator=(const Rule&) = delete;

  Index dim() const { return dim_; }
  Index padded_dim() const { return padded_; }
  virtual Index width() const { return 2 * padded_; }
  // True if tokens become blocks by pairs, with levels between them.
  virtual bool by_pairs() const { return true; }

  // Completes rows of tokens, which hold key and value.
  virtual void prepare(const Level&) const {}
  virtual void pool(const Step& step) const = 0;
  // Adds to the gradients of the level below, and to `parameters` [pooler_rows, dim].
  virtual void pool_backward(const Step& step, float* parameters) const = 0;
  virtual void prepare_backward(const Level&, float* /*parameters*/) const {}

 private:
  Index dim_, padded_;
};

std::unique_ptr<Rule> make_rule(Pooler pooler, const float* parameters, Index dim, Index block);
std::unique_ptr<Rule> key_weights(const float* parameters, Index dim);
std::unique_ptr<Rule> position_weights(const float* parameters, Index dim);
std::unique_ptr<Rule> group_attention(const float* parameters, Index dim, Index block);

// Heads of the paper's attention within a group.
constexpr Index group_heads(Index dim) { return dim % 4 == 0 ? 4 : dim % 2 == 0 ? 2 : 1; }
constexpr double kLayerNormEpsilon = 1e-5;

inline bool all_zero(const float* x, Index count) {
  return std::all_of(x, x + count, [](float e) { return e == 0; });
}

// A rule that makes a node of two children: what both such rules share is how nodes and their children are found. A
// node with a single child is that child.
class PairRule : public Rule {
 public:
  using Rule::Rule;

  void pool(const Step& step) const final;
  void pool_backward(const Step& step, float* parameters) const final;

 protected:
  struct Children {
    const float *left, *right;
    Index left_tokens, right_tokens;
  };
  struct ChildGradients {
    float *left, *right;
  };

  virtual void merge(const Children& from, float* to) const = 0;
  // Adds what the gradient of merge() gives to the children, and to `sums` [2 padded dim].
  virtual void merge_backward(const Children& from, const float* gradient, const ChildGradients& to,
                              float* sums) const = 0;
  // Adds to `parameters` what `sums` of a level mean.
  virtual void add_sums(const float* /*sums*/, float* /*parameters*/) const {}

 private:
  Children children(const Step& step, Index i) const;
};

// The levels of a part: sizes as given, memory of its own.
class Part {
 public:
  // Room for parts of up to `tokens` tokens at most, on these levels.
  Part(const std::vector<Index>& sizes, Index tokens, Index width, bool backward);
  // From here on the part has `tokens` tokens.
  void resize(Index tokens);

  Index levels() const { return static_cast<Index>(levels_.size()); }
  const Level& level(Index i) const { return levels_[static_cast<std::size_t>(i)]; }
  void pool(const Rule& rule) const;
  void clear_gradients() const;
  // From the gradients of all levels to those of the lowest.
  void pool_backward(const Rule& rule, float* parameters) const;

 private:
  Index tokens_, width_, rows_;
  std::vector<Level> levels_;
  Buffer<float> values_, gradients_;
};

}  // namespace hsattn::pooling
