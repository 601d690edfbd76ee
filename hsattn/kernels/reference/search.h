// What the search of one position scores, in double: nodes by their means, candidates by their tokens.
#pragma once

#include <span>
#include <vector>

#include "hsattn/kernels/reference/reference.h"

namespace hsattn::reference {

/// The past of a position, and which nodes lie wholly inside it.
class Past {
 public:
  Past(const PlanShape& shape, Index position)
      : left_(shape.left_nodes(position)), right_(shape.right_nodes(position)), nodes_(shape.nodes()) {}

  /// Nodes [begin, end) of `level`. The last node on the right may be ragged: the sequence ends there.
  Range left_nodes(Index level) const { return {0, left_.end >> level}; }
  Range right_nodes(Index level) const {
    if (right_.size() <= 0) return {0, 0};
    return {ceil_div(right_.begin, Index{1} << level), nodes_at(level)};
  }
  Index nodes_at(Index level) const { return ceil_div(nodes_, Index{1} << level); }

  bool holds(Index level, Index node) const {
    return left_nodes(level).contains(node) || right_nodes(level).contains(node);
  }
  Index count(Index level) const { return left_nodes(level).size() + std::max<Index>(right_nodes(level).size(), 0); }

  std::vector<Index> nodes(Index level) const {
    std::vector<Index> all;
    for (const Range& range : {left_nodes(level), right_nodes(level)}) {
      for (Index i = range.begin; i < range.end; ++i) all.push_back(i);
    }
    return all;
  }

 private:
  Range left_, right_;
  Index nodes_;
};

/// The search of one position: its G query heads over one key pyramid, all rounded to bytes.
struct Search {
  const std::vector<std::vector<double>>& queries;  // G rows, times the scale
  const Pyramid& keys;
  const PlanShape& shape;
  const SearchBudget& budget;
  Index position;
  std::vector<Index> sinks;  // blocks of the past

  /// q.k_mean + log(tokens); with several heads the softmax over `nodes`, summed over the heads. Smallest nodes may be
  /// scored by their parts.
  std::vector<double> score_nodes(Index level, const std::vector<Index>& nodes) const;
  /// Softmax mass of each block over the tokens of all `blocks` and of the near run (with a mass budget: and of the
  /// sinks), summed over the heads. A single head orders by the logarithm of the mass.
  std::vector<double> score_tokens(const std::vector<Index>& blocks) const;
  /// The masses of the tokens of each candidate's parts whose blocks are not among `kept`, ascending.
  std::vector<Rejected> rejected_of(const std::vector<Index>& candidates, const std::vector<Index>& kept) const;
  /// Where it starts.
  Index start_level(const Past& past) const;
  /// Children of the refined nodes, and the nodes of `level` whose parent is not wholly in the past.
  std::vector<Index> next_nodes(const Past& past, Index level, const std::vector<Index>& refined) const;

 private:
  std::vector<double> score_parts(const std::vector<Index>& nodes) const;
  std::vector<Range> parts_of(Index node) const;
  std::vector<Index> sinks_to_weigh() const { return budget.mass > 0 ? sinks : std::vector<Index>(); }
  double rejected_lse(std::span<const double> q, Range tokens, const std::vector<Index>& kept) const;
  double block_lse_of(std::span<const double> q, Index block) const;
  double tokens_lse(std::span<const double> q, Range tokens) const;
};

}  // namespace hsattn::reference
