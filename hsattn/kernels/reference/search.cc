#include "hsattn/kernels/reference/search.h"

#include <algorithm>
#include <cmath>

namespace hsattn::reference {
namespace {

void add_softmax(const std::vector<double>& score, std::vector<double>& total) {
  const double lse = log_sum_exp(score);
  for (std::size_t j = 0; j < score.size(); ++j) total[j] += std::exp(score[j] - lse);
}

}  // namespace

std::vector<double> Search::score_nodes(Index level, const std::vector<Index>& nodes) const {
  if (level == 0 && shape.parts > 1) return score_parts(nodes);
  std::vector<double> total(nodes.size(), 0.0);
  for (const std::vector<double>& q : queries) {
    std::vector<double> score(nodes.size());
    for (std::size_t j = 0; j < nodes.size(); ++j) {
      const Node node{level, nodes[j], keys.count(level, nodes[j])};
      score[j] = dot(q, keys.row(node)) + std::log(static_cast<double>(node.tokens));
    }
    if (queries.size() == 1) return score;
    add_softmax(score, total);
  }
  return total;
}

// Of the smallest nodes: what their parts have of the softmax over all their parts, summed over the heads.
std::vector<double> Search::score_parts(const std::vector<Index>& nodes) const {
  std::vector<double> total(nodes.size(), 0.0);
  for (const std::vector<double>& q : queries) {
    std::vector<double> score(nodes.size());
    for (std::size_t j = 0; j < nodes.size(); ++j) {
      std::vector<double> parts;
      for (const Range& tokens : parts_of(nodes[j])) {
        const double logarithm = std::log(static_cast<double>(tokens.size()));
        parts.push_back(dot(q, keys.parts.row(tokens.begin / shape.part())) + logarithm);
      }
      score[j] = log_sum_exp(parts);
    }
    if (queries.size() == 1) return score;
    add_softmax(score, total);
  }
  return total;
}

// The tokens of each part of a node that exists.
std::vector<Range> Search::parts_of(Index node) const {
  std::vector<Range> parts;
  const Index end = std::min((node + 1) * shape.node, shape.keys);
  for (Index begin = node * shape.node; begin < end; begin += shape.part()) {
    parts.push_back({begin, std::min(end, begin + shape.part())});
  }
  return parts;
}

std::vector<double> Search::score_tokens(const std::vector<Index>& blocks) const {
  std::vector<double> total(blocks.size(), 0.0);
  const Range near = shape.near(position);
  for (const std::vector<double>& q : queries) {
    std::vector<double> block_lse(blocks.size());
    for (std::size_t j = 0; j < blocks.size(); ++j) {
      block_lse[j] = block_lse_of(q, blocks[j]);
    }
    std::vector<double> parts = block_lse;
    parts.push_back(tokens_lse(q, near));
    for (const Index sink : sinks_to_weigh()) parts.push_back(block_lse_of(q, sink));
    const double lse = log_sum_exp(parts);
    for (std::size_t j = 0; j < blocks.size(); ++j) {
      const double log_mass = block_lse[j] - lse;
      total[j] += queries.size() == 1 ? log_mass : std::exp(log_mass);
    }
  }
  return total;
}

std::vector<Rejected> Search::rejected_of(const std::vector<Index>& candidates, const std::vector<Index>& kept) const {
  std::vector<Rejected> all;
  for (const Index node : candidates) {
    for (const Range& tokens : parts_of(node)) {
      Rejected one{tokens.begin / shape.part(), {}};
      for (const std::vector<double>& q : queries) one.log_mass.push_back(rejected_lse(q, tokens, kept));
      all.push_back(std::move(one));
    }
  }
  return all;
}

double Search::rejected_lse(std::span<const double> q, Range tokens, const std::vector<Index>& kept) const {
  std::vector<double> score;
  for (Index t = tokens.begin; t < tokens.end; ++t) {
    if (!std::binary_search(kept.begin(), kept.end(), t / shape.block)) score.push_back(dot(q, keys.tokens.row(t)));
  }
  return log_sum_exp(score);
}

double Search::block_lse_of(std::span<const double> q, Index block) const {
  return tokens_lse(q, {block * shape.block, std::min((block + 1) * shape.block, shape.keys)});
}

double Search::tokens_lse(std::span<const double> q, Range tokens) const {
  std::vector<double> score;
  for (Index t = tokens.begin; t < tokens.end; ++t) score.push_back(dot(q, keys.tokens.row(t)));
  return log_sum_exp(score);
}

Index Search::start_level(const Past& past) const {
  if (budget.start_level >= 0) return std::min<Index>(budget.start_level, std::ssize(keys.levels) - 1);
  Index level = 0;
  while (past.count(level) > budget.top_nodes) ++level;
  return level;
}

std::vector<Index> Search::next_nodes(const Past& past, Index level, const std::vector<Index>& refined) const {
  std::vector<Index> next;
  for (Index i : refined) {
    for (Index child = 2 * i; child < std::min(2 * i + 2, past.nodes_at(level)); ++child) next.push_back(child);
  }
  for (Index i : past.nodes(level)) {
    if (!past.holds(level + 1, i / 2)) next.push_back(i);
  }
  std::sort(next.begin(), next.end());
  return next;
}

}  // namespace hsattn::reference
