#include "hsattn/pooling/driver.h"

#include "hsattn/kernels/cpu/rows.h"
#include "hsattn/kernels/pool.h"
#include "hsattn/pooling/part.h"

namespace hsattn::pooling {
namespace {

constexpr Index kChunk = 1024;    // tokens whose nodes are pooled together, in memory that a cache holds
constexpr Index kMostRanges = 8;  // of chunks of a head: each has sums of gradients of its own

// A head's tokens are cut into chunks; each is a part of the pyramid up to the node over all of the chunk. The nodes
// above are one more part of the head, whose tokens are the chunks' highest rows. Cuts depend on the shape alone.
class Call {
 public:
  Call(const PoolerInputs& in, bool backward)
      : in_(in),
        rule_(make_rule(in.pooler, static_cast<const float*>(in.parameters), in.k.dim, in.block)),
        heads_(in.k.batch * in.k.heads),
        chunks_(ceil_div(in.k.tokens, kChunk)),
        ranges_(std::min(chunks_, kMostRanges)),
        backward_(backward) {
    const Index blocks = ceil_div(in.k.tokens, in.block);
    Index first = 0;
    for (int level = 0; level < pyramid_levels(blocks); ++level) {
      first_.push_back(first);
      first += ceil_div(blocks, Index{1} << level);
      const Index size = in.block << level;
      (size <= kChunk ? chunk_sizes_ : upper_sizes_).push_back(size);
    }
    std::vector<Index> below = {1};
    for (Index size = 2; rule_->by_pairs() && size < in.block; size *= 2) below.push_back(size);
    if (rule_->by_pairs() && in.block == 1) below.clear();  // blocks are tokens
    inner_levels_ = std::ssize(below);
    chunk_sizes_.insert(chunk_sizes_.begin(), below.begin(), below.end());
    upper_sizes_.insert(upper_sizes_.begin(), kChunk);
    if (chunks_ > 1) tops_ = allocate_buffer<float>(heads_ * chunks_ * rule_->width(), "pooling: nodes of chunks");
    if (backward && chunks_ > 1) {
      dtops_ = allocate_buffer<float>(heads_ * chunks_ * rule_->width(), "pooling: gradients of chunks' nodes");
    }
  }

  void forward(const Nodes& out, Executor& executor) {
    for_each_range(executor, [&](Index head, Index range) {
      Part part = chunk_part();
      for_each_chunk(range, [&](Index chunk) {
        pool_chunk(head, chunk, part);
        for (Index l = inner_levels_; l < part.levels(); ++l) {
          write(part.level(l), first_of(l - inner_levels_) + chunk * kChunk / part.level(l).size, head, out);
        }
      });
    });
    if (chunks_ <= 1) return;
    executor.run(heads_, [&](Index head) {
      const Part part = pooled_upper_part(head);
      for (Index l = 1; l < part.levels(); ++l) write(part.level(l), first_of_upper(l), head, out);
    });
  }

  void backward(const ConstNodes& dnodes, const PoolerGradients& grads, Executor& executor) {
    const Index parameters = pooler_rows(in_.pooler, in_.k.dim) * in_.k.dim;
    std::vector<float> sums = allocate_vector<float>(heads_ * (ranges_ + 1) * parameters, "pooling: gradients");
    const auto sums_of = [&](Index head, Index range) {
      return sums.data() + (head * (ranges_ + 1) + range) * parameters;
    };
    if (chunks_ > 1) upper_backward(dnodes, [&](Index head) { return sums_of(head, ranges_); }, executor);
    for_each_range(executor, [&](Index head, Index range) {
      Part part = chunk_part();
      for_each_chunk(range, [&](Index chunk) {
        pool_chunk(head, chunk, part);
        chunk_backward(head, chunk, dnodes, part, sums_of(head, range));
        write_tokens(part.level(0), chunk, head, grads);
      });
    });
    auto* to = static_cast<float*>(grads.dparameters);
    for (Index p = 0; p < parameters; ++p) {
      double sum = 0;
      for (Index i = 0; i < heads_ * (ranges_ + 1); ++i) sum += sums[static_cast<std::size_t>(i * parameters + p)];
      to[p] = static_cast<float>(sum);
    }
  }

 private:
  template <class Body>
  void for_each_range(Executor& executor, const Body& body) const {
    executor.run(heads_ * ranges_, [&](Index task) { body(task / ranges_, task % ranges_); });
  }
  template <class Body>
  void for_each_chunk(Index range, const Body& body) const {
    const Index begin = range * chunks_ / ranges_, end = (range + 1) * chunks_ / ranges_;
    for (Index chunk = begin; chunk < end; ++chunk) body(chunk);
  }

  Part chunk_part() const { return {chunk_sizes_, std::min(kChunk, in_.k.tokens), rule_->width(), backward_}; }
  float* top_of(const Buffer<float>& tops, Index head, Index chunk) const {
    return tops.get() + (head * chunks_ + chunk) * rule_->width();
  }
  // Where a stored level begins among the nodes of a head.
  Index first_of(Index level) const { return first_[static_cast<std::size_t>(level)]; }
  Index first_of_upper(Index level) const { return first_of(level + std::ssize(first_) - std::ssize(upper_sizes_)); }

  void pool_chunk(Index head, Index chunk, Part& part) const {
    const Index begin = chunk * kChunk, count = std::min(kChunk, in_.k.tokens - begin);
    part.resize(count);
    const Index side = rule_->padded_dim();
    for (const auto& [view, at] : {std::pair{&in_.k, Index{0}}, {&in_.v, side}}) {
      const cpu::StoredRows rows = cpu::stored_rows(*view, head / in_.k.heads, head % in_.k.heads);
      for (Index t = 0; t < count; ++t) {
        float* row = part.level(0).rows + t * rule_->width() + at;
        cpu::read_row(rows.dtype, rows.row(begin + t), rows.dim, 1, row);
        std::fill(row + rows.dim, row + side, 0.0F);
      }
    }
    rule_->prepare(part.level(0));
    part.pool(*rule_);
    if (chunks_ > 1) {
      std::copy_n(part.level(part.levels() - 1).rows, rule_->width(), top_of(tops_, head, chunk));
    }
  }

  Part pooled_upper_part(Index head) const {
    Part part(upper_sizes_, in_.k.tokens, rule_->width(), backward_);
    std::copy_n(top_of(tops_, head, 0), chunks_ * rule_->width(), part.level(0).rows);
    part.pool(*rule_);
    return part;
  }

  template <class SumsOf>
  void upper_backward(const ConstNodes& dnodes, const SumsOf& sums_of, Executor& executor) const {
    for_each_range(executor, [&](Index head, Index range) {
      Part part = chunk_part();
      for_each_chunk(range, [&](Index chunk) { pool_chunk(head, chunk, part); });
    });
    executor.run(heads_, [&](Index head) {
      const Part part = pooled_upper_part(head);
      part.clear_gradients();
      for (Index l = 1; l < part.levels(); ++l) read(part.level(l), first_of_upper(l), head, dnodes);
      part.pool_backward(*rule_, sums_of(head));
      std::copy_n(part.level(0).gradients, chunks_ * rule_->width(), top_of(dtops_, head, 0));
    });
  }

  void chunk_backward(Index head, Index chunk, const ConstNodes& dnodes, const Part& part, float* sums) const {
    part.clear_gradients();
    for (Index l = inner_levels_; l < part.levels(); ++l) {
      read(part.level(l), first_of(l - inner_levels_) + chunk * kChunk / part.level(l).size, head, dnodes);
    }
    if (chunks_ > 1) {
      const float* from = top_of(dtops_, head, chunk);
      float* to = part.level(part.levels() - 1).gradients;
      for (Index c = 0; c < rule_->width(); ++c) to[c] += from[c];
    }
    part.pool_backward(*rule_, sums);
    rule_->prepare_backward(part.level(0), sums);
  }

  // Rows of a level to or from nodes [first, first + count) of a head.
  void write(const Level& level, Index first, Index head, const Nodes& nodes) const {
    for (const auto& [view, side] : {std::pair{&nodes.k, Index{0}}, {&nodes.v, rule_->padded_dim()}}) {
      const Rows<float> to = rows_of<float>(*view, head / view->heads, head % view->heads);
      for (Index i = 0; i < level.count; ++i) {
        std::copy_n(level.rows + i * rule_->width() + side, to.dim, to.row(first + i));
      }
    }
  }
  void read(const Level& level, Index first, Index head, const ConstNodes& nodes) const {
    for (const auto& [view, side] : {std::pair{&nodes.k, Index{0}}, {&nodes.v, rule_->padded_dim()}}) {
      const Rows<const float> from = rows_of<const float>(*view, head / view->heads, head % view->heads);
      for (Index i = 0; i < level.count; ++i) {
        std::copy_n(from.row(first + i), from.dim, level.gradients + i * rule_->width() + side);
      }
    }
  }
  void write_tokens(const Level& tokens, Index chunk, Index head, const PoolerGradients& grads) const {
    for (const auto& [view, side] : {std::pair{&grads.dk, Index{0}}, {&grads.dv, rule_->padded_dim()}}) {
      const cpu::WritableRows to = cpu::writable_rows(*view, head / view->heads, head % view->heads);
      for (Index t = 0; t < tokens.count; ++t) {
        cpu::write_row(to.dtype, tokens.gradients + t * rule_->width() + side, to.dim, to.row(chunk * kChunk + t));
      }
    }
  }

  const PoolerInputs& in_;
  std::unique_ptr<Rule> rule_;
  Index heads_, chunks_, ranges_;
  bool backward_;
  std::vector<Index> first_;  // [levels of the pyramid]
  std::vector<Index> chunk_sizes_, upper_sizes_;
  Index inner_levels_ = 0;      // of a chunk, below the blocks
  Buffer<float> tops_, dtops_;  // [heads, chunks, width]; where there are several chunks
};

}  // namespace

void forward(const PoolerInputs& in, const Nodes& out, Executor& executor) { Call(in, false).forward(out, executor); }

void backward(const PoolerInputs& in, const ConstNodes& dnodes, const PoolerGradients& grads, Executor& executor) {
  Call(in, true).backward(dnodes, grads, executor);
}

}  // namespace hsattn::pooling
