#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hsattn/base/math.h"
#include "hsattn/kernels/quantize.h"
#include "hsattn/kernels/reference/search.h"
#include "hsattn/plan/budgets.h"

namespace hsattn::reference {
namespace {

constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

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

SearchBudget::SearchBudget(const PlanShape& shape, const PlanOptions& options, Index kv_head)
    : kept(std::min(shape.kept, ceil_div(options.hsa.top_k_of(kv_head), shape.block))),
      mass(mass_budget(options.hsa)),
      least(std::min(kept, ceil_div(options.hsa.min_top_k, shape.block))) {
  const HsaOptions& hsa = options.hsa;
  top_nodes = hsa.top_nodes;
  // A node of 2^levels tokens lies levels - log2(node) above the smallest ones.
  if (hsa.levels > 0) start_level = hsa.levels - log2_exact(shape.node);
  candidates = ceil_div(std::max(hsa.candidates, hsa.largest_top_k()), shape.node);
  beam = hsa.beam > 0 ? hsa.beam : candidates;
  rescore = shape.blocks_of_node() > 1 || candidates > shape.kept;
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
  const bool rescore = budget.rescore, by_mass = budget.mass > 0;
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
  executor.run(shape.batch * shape.kv_heads, [&](Index task) {
    const Index batch = task / shape.kv_heads, kv_head = task % shape.kv_heads, group = q.heads / k.heads;
    const SearchBudget budget(shape, options, kv_head);
    const Matrix tokens = load_head(k, batch, kv_head);
    const Pyramid keys = pooled_keys ? make_search_pyramid(tokens, shape.node, load_head(*pooled_keys, batch, kv_head))
                                     : make_search_pyramid(tokens, shape.node, shape.pooling, shape.parts);
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
