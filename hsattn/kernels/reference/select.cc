#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hsattn/base/math.h"
#include "hsattn/kernels/quantize.h"
#include "hsattn/kernels/reference/reference.h"
#include "hsattn/plan/budgets.h"

namespace hsattn::reference {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// The past of a position, and which nodes lie wholly inside it.
class Past {
 public:
  Past(const PlanShape& shape, Index position)
      : left_(shape.left_nodes(position)), right_(shape.right_nodes(position)), nodes_(shape.nodes()) {}

  // Nodes [begin, end) of `level`. The last node on the right may be ragged: the sequence ends there.
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

// The search of one position: its G query heads over one key pyramid, all rounded to bytes.
struct Search {
  const std::vector<std::vector<double>>& queries;  // G rows, times the scale
  const Pyramid& keys;
  const PlanShape& shape;
  const SearchBudget& budget;
  Index position;
  std::vector<Index> sinks;  // blocks of the past

  // q.k_mean + log(tokens); with several heads the softmax over `nodes`, summed over the heads.
  std::vector<double> score_nodes(Index level, const std::vector<Index>& nodes) const {
    std::vector<double> total(nodes.size(), 0.0);
    for (const std::vector<double>& q : queries) {
      std::vector<double> score(nodes.size());
      for (std::size_t j = 0; j < nodes.size(); ++j) {
        const Node node{level, nodes[j], keys.count(level, nodes[j])};
        score[j] = dot(q, keys.row(node)) + std::log(static_cast<double>(node.tokens));
      }
      if (queries.size() == 1) return score;
      const double lse = log_sum_exp(score);
      for (std::size_t j = 0; j < nodes.size(); ++j) total[j] += std::exp(score[j] - lse);
    }
    return total;
  }

  // Softmax mass of each block over the tokens of all `blocks` and of the near run (with a mass budget: and of the
  // sinks), summed over the heads. A single head orders by the logarithm of the mass.
  std::vector<double> score_tokens(const std::vector<Index>& blocks) const {
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

  std::vector<Index> sinks_to_weigh() const { return budget.mass > 0 ? sinks : std::vector<Index>(); }

  // The masses of the blocks of each candidate that are not among `kept`, ascending.
  std::vector<Rejected> rejected_of(const std::vector<Index>& candidates, const std::vector<Index>& kept) const {
    std::vector<Rejected> all;
    for (const Index node : candidates) {
      Rejected one{node, {}};
      for (const std::vector<double>& q : queries) {
        std::vector<double> parts;
        for (Index b = node * shape.blocks_of_node(); b < (node + 1) * shape.blocks_of_node(); ++b) {
          if (b < shape.blocks() && !std::binary_search(kept.begin(), kept.end(), b))
            parts.push_back(block_lse_of(q, b));
        }
        one.log_mass.push_back(log_sum_exp(parts));
      }
      all.push_back(std::move(one));
    }
    return all;
  }

  double block_lse_of(std::span<const double> q, Index block) const {
    return tokens_lse(q, {block * shape.block, std::min((block + 1) * shape.block, shape.keys)});
  }

  double tokens_lse(std::span<const double> q, Range tokens) const {
    std::vector<double> score;
    for (Index t = tokens.begin; t < tokens.end; ++t) score.push_back(dot(q, keys.tokens.row(t)));
    return log_sum_exp(score);
  }

  Index start_level(const Past& past) const {
    if (budget.start_level >= 0) return std::min<Index>(budget.start_level, std::ssize(keys.levels) - 1);
    Index level = 0;
    while (past.count(level) > budget.top_nodes) ++level;
    return level;
  }

  // Children of the refined nodes, and the nodes of `level` whose parent is not wholly in the past.
  std::vector<Index> next_nodes(const Past& past, Index level, const std::vector<Index>& refined) const {
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
};

// Items of a stage by falling score; NaN counts as -inf, ties go to the lower index.
std::vector<Index> ranked(Stage& stage) {
  for (double& score : stage.scores) score = std::isnan(score) ? kMinusInfinity : score;
  std::vector<Index> order(stage.nodes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return stage.scores[a] > stage.scores[b]; });
  return order;
}

void keep_best(Stage& stage, Index count) {
  std::vector<Index> order = ranked(stage);
  order.resize(std::min<std::size_t>(order.size(), static_cast<std::size_t>(count)));
  for (Index at : order) stage.kept.push_back(stage.nodes[at]);
  std::sort(stage.kept.begin(), stage.kept.end());
}

// The share of the attention that each item of the last stage holds, averaged over the heads. Scores of a single head
// are logarithms: of masses after rescoring, else of what a softmax over the items makes masses.
std::vector<double> shares_of(const Stage& stage, Index heads) {
  std::vector<double> shares = stage.scores;
  const double lse = stage.level == Stage::kRescore ? 0 : log_sum_exp(stage.scores);
  for (double& x : shares) {
    x = heads == 1 ? std::exp(x - lse) : x / static_cast<double>(heads);
    if (!(x > 0)) x = 0;  // of scores that are not numbers
  }
  return shares;
}

// How many of the best blocks a mass budget keeps: the fewest, from budget.least to budget.kept, whose rivals hold no
// more than what may be missed.
Index count_for_mass(Stage& stage, const SearchBudget& budget, Index heads) {
  const std::vector<Index> order = ranked(stage);
  const std::vector<double> shares = shares_of(stage, heads);
  const auto most = std::min<Index>(budget.kept, std::ssize(order));
  double missed = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (Index count = 0; count < most; ++count) {
    const double spare = 1 - budget.mass - missed;
    if (count >= budget.least) stage.slack = std::min(stage.slack, std::abs(spare));
    if (count >= budget.least && spare >= 0) return count;
    missed -= shares[order[count]];
  }
  return most;
}

// The blocks of some nodes, as far as they exist.
std::vector<Index> blocks_of(const std::vector<Index>& nodes, const PlanShape& shape) {
  std::vector<Index> blocks;
  for (const Index node : nodes) {
    for (Index i = 0; i < shape.blocks_of_node(); ++i) blocks.push_back(node * shape.blocks_of_node() + i);
  }
  std::erase_if(blocks, [&](Index block) { return block >= shape.blocks(); });
  return blocks;
}

}  // namespace

SearchBudget::SearchBudget(const PlanShape& shape, const PlanOptions& options)
    : kept(shape.kept),
      mass(mass_budget(options.hsa)),
      least(std::min(shape.kept, ceil_div(options.hsa.min_top_k, shape.block))) {
  const HsaOptions& hsa = options.hsa;
  top_nodes = hsa.top_nodes;
  // A node of 2^levels tokens lies levels - log2(node) above the smallest ones.
  if (hsa.levels > 0) start_level = hsa.levels - log2_exact(shape.node);
  candidates = ceil_div(std::max(hsa.candidates, hsa.top_k), shape.node);
  beam = hsa.beam > 0 ? hsa.beam : candidates;
}

std::vector<Index> select_position(const std::vector<std::span<const double>>& queries, const Pyramid& keys,
                                   const PlanShape& shape, const SearchBudget& budget, double scale, Index position,
                                   std::vector<Stage>* trace, std::vector<Rejected>* rejected) {
  if (shape.slots() == 0 || shape.dense(position)) return {};
  const Past past(shape, position);
  std::vector<std::vector<double>> rows;
  for (const std::span<const double> q : queries) {
    rows.emplace_back(q.size());
    round_row(q, static_cast<float>(scale), kQueryLevels, rows.back());
  }
  Search search{rows, keys, shape, budget, position, {}};
  const Index per_node = shape.blocks_of_node();
  for (Index b = 0; b < shape.sinks; ++b) {
    if (past.holds(0, b / per_node)) search.sinks.push_back(b);
  }
  const auto choose = [&](Index level, std::vector<Index> nodes, std::vector<double> scores, Index count,
                          bool by_mass = false) {
    Stage stage{level, std::move(nodes), std::move(scores), {}};
    if (by_mass) count = count_for_mass(stage, budget, std::ssize(rows));
    keep_best(stage, count);
    if (trace != nullptr) trace->push_back(stage);
    return stage.kept;
  };

  // Descend: score, refine the best, go down to their children.
  Index level = search.start_level(past);
  std::vector<Index> active = past.nodes(level);
  for (; level > 0; --level) {
    const std::vector<Index> refined = choose(level, active, search.score_nodes(level, active), budget.beam);
    active = search.next_nodes(past, level - 1, refined);
  }

  // The smallest nodes: sinks are attended anyway; the best others are candidates. If a node is one block, and no more
  // are candidates than are kept, they are the list.
  std::erase_if(active, [&](Index node) { return node * per_node < shape.sinks; });
  const bool rescore = per_node > 1 || budget.candidates > budget.kept, by_mass = budget.mass > 0;
  const Index wanted = rescore ? budget.candidates : budget.kept;
  std::vector<Index> list = choose(0, active, search.score_nodes(0, active), wanted, by_mass && !rescore);
  if (rescore) {
    const std::vector<Index> candidates = list, blocks = blocks_of(candidates, shape);
    list = choose(Stage::kRescore, blocks, search.score_tokens(blocks), budget.kept, by_mass);
    if (rejected != nullptr) *rejected = search.rejected_of(candidates, list);
  }

  list.insert(list.end(), search.sinks.begin(), search.sinks.end());
  std::sort(list.begin(), list.end());
  return list;
}

void select(const ConstView& q, const ConstView& k, const PlanShape& shape, const PlanOptions& options, double scale,
            std::int32_t* blocks, Executor& executor, const std::optional<ConstView>& pooled_keys, Tails* tails) {
  const Index slots = shape.slots();
  if (slots == 0) return;
  if (tails != nullptr) tails->resize(static_cast<std::size_t>(shape.batch * shape.kv_heads * shape.queries));
  const SearchBudget budget(shape, options);
  executor.run(shape.batch * shape.kv_heads, [&](Index task) {
    const Index batch = task / shape.kv_heads, kv_head = task % shape.kv_heads, group = q.heads / k.heads;
    const Matrix tokens = load_head(k, batch, kv_head);
    const Pyramid keys = pooled_keys ? make_search_pyramid(tokens, shape.node, load_head(*pooled_keys, batch, kv_head))
                                     : make_search_pyramid(tokens, shape.node, shape.pooling);
    std::vector<Matrix> heads;
    for (Index g = 0; g < group; ++g) heads.push_back(load_head(q, batch, kv_head * group + g));
    for (Index i = 0; i < shape.queries; ++i) {
      std::vector<std::span<const double>> queries;
      for (const Matrix& head : heads) queries.push_back(head.row(i));
      const Index at = task * shape.queries + i;
      std::vector<Rejected>* rejected = tails == nullptr ? nullptr : &(*tails)[static_cast<std::size_t>(at)];
      const std::vector<Index> list =
          select_position(queries, keys, shape, budget, scale, shape.position(i), nullptr, rejected);
      std::int32_t* out = blocks + at * slots;
      std::fill_n(out, slots, -1);
      std::copy(list.begin(), list.end(), out);
    }
  });
}

}  // namespace hsattn::reference
