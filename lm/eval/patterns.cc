#include "lm/eval/patterns.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hsattn/base/error.h"
#include "lm/data/first_tokens.h"
#include "lm/data/text_encoder.h"
#include "lm/eval/exact_rows.h"
#include "lm/model/model_file.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

constexpr double kBudgetFactors[] = {0.25, 0.5, 1, 2, 4};
constexpr double kEnough = 0.95;

// One row of full attention.
struct FullRow {
  std::vector<double> weights;  // [position + 1]
  Tensor output;                // [d]
};

FullRow full_row(const Tensor& q, const Tensor& k, const Tensor& v, Index position) {
  const ExactRow row = exact_row(q, k, v, {{Span::Kind::kNear, 0, position + 1, 0}});
  const auto* weight = row.probabilities.const_data_ptr<double>();
  return {{weight, weight + position + 1}, row.output};
}

// Tokens that are attended one by one.
std::vector<bool> attended_tokens(const std::vector<Span>& spans, std::size_t tokens) {
  std::vector<bool> attended(tokens, false);
  for (const Span& span : spans) {
    if (span.kind == Span::Kind::kFar) continue;
    for (Index t = span.begin; t < std::min(span.end, static_cast<Index>(tokens)); ++t)
      attended[static_cast<std::size_t>(t)] = true;
  }
  return attended;
}

std::vector<double> shares_of(const ExactRow& row, const std::vector<Span>& spans) {
  std::vector<double> shares;
  const auto* weight = row.probabilities.const_data_ptr<double>();
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const Index end = i + 1 < spans.size() ? row.first[i + 1] : row.probabilities.size(0);
    shares.push_back(std::accumulate(weight + row.first[i], weight + end, 0.0));
  }
  return shares;
}

// Masses of the blocks before the near window, the heaviest first.
std::vector<double> heaviest_blocks(const std::vector<double>& weights, Index near_begin, Index block) {
  std::vector<double> masses;
  for (Index begin = 0; begin < near_begin; begin += block) {
    const Index end = std::min(begin + block, near_begin);
    masses.push_back(std::accumulate(weights.begin() + begin, weights.begin() + end, 0.0));
  }
  std::sort(masses.rbegin(), masses.rend());
  return masses;
}

double sum_of_heaviest(std::vector<double> weights, std::size_t count) {
  count = std::min(count, weights.size());
  std::partial_sort(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(count), weights.end(),
                    std::greater<>());
  return std::accumulate(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(count), 0.0);
}

std::size_t distance_bin(Index distance) {
  return static_cast<std::size_t>(std::floor(std::log2(static_cast<double>(distance + 1))));
}

// What each token stands for; a token that ends documents stands for its name.
std::vector<std::string> texts_of(const std::vector<int64_t>& tokens, const Tokenizer* tokenizer) {
  std::vector<std::string> texts;
  for (const int64_t token : tokens) {
    if (tokenizer == nullptr) {
      texts.emplace_back(1, static_cast<char>(token));
    } else {
      texts.emplace_back(tokenizer->bytes_of(static_cast<Token>(token)));
    }
  }
  return texts;
}

// Tokens in which a sentence or a paragraph begins.
struct Boundaries {
  std::vector<bool> sentence, paragraph;

  explicit Boundaries(const std::vector<std::string>& texts)
      : sentence(texts.size(), false), paragraph(texts.size(), false) {
    char before = 0, last = 0;  // the two bytes before
    for (std::size_t i = 0; i < texts.size(); ++i) {
      for (const char c : texts[i]) {
        const bool ended = before == '.' || before == '!' || before == '?';
        if ((last == ' ' || last == '\n') && ended) sentence[i] = true;
        if (last == '\n' && before == '\n' && c != '\n') paragraph[i] = true;
        before = last, last = c;
      }
    }
  }
};

// Mass on marked tokens, as a multiple of their number's share; 1 if none is marked.
double emphasis(const std::vector<double>& weights, const std::vector<bool>& marked) {
  double mass = 0, count = 0;
  for (std::size_t t = 0; t < weights.size(); ++t) {
    if (marked[t]) mass += weights[t], ++count;
  }
  return count == 0 ? 1 : mass / (count / static_cast<double>(weights.size()));
}

class Measurement {
 public:
  Measurement(const PatternsOptions& options, PatternsReport& report)
      : options_(options), report_(report), boundaries_(report.text) {}

  void measure_layer(Index layer, const Tensor& q, const Tensor& k, const Tensor& v);
  void finish();

 private:
  void measure_row(const Tensor& q, const Tensor& k, const Tensor& v, const PlanView& plan, Index kv_head, Index p,
                   HeadPatterns& head);
  static void measure_oracle(const FullRow& full, const std::vector<Span>& spans, Index block, HeadPatterns& head);
  void measure_budgets(const Tensor& q, const Tensor& k);
  void explore(const Tensor& q, const Tensor& k, const Tensor& v, const PlanView& plan, Index kv_head, Index layer,
               Index head);

  const PatternsOptions& options_;
  PatternsReport& report_;
  Boundaries boundaries_;
  double budget_heads_ = 0;
};

void Measurement::measure_oracle(const FullRow& full, const std::vector<Span>& spans, Index block, HeadPatterns& head) {
  Index near_begin = static_cast<Index>(full.weights.size()), listed = 0;
  double near_mass = 0;
  for (const Span& span : spans) {
    if (span.kind == Span::Kind::kBlock) ++listed;
    if (span.kind == Span::Kind::kNear && span.begin < near_begin) near_begin = span.begin;
  }
  for (std::size_t t = static_cast<std::size_t>(near_begin); t < full.weights.size(); ++t) near_mass += full.weights[t];
  const std::vector<double> blocks = heaviest_blocks(full.weights, near_begin, block);
  double mass = near_mass, taken = static_cast<double>(full.weights.size()) - static_cast<double>(near_begin);
  double oracle = near_mass;
  bool enough = mass >= kEnough;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (static_cast<Index>(i) < listed) oracle += blocks[i];
    if (enough) continue;
    mass += blocks[i], taken += static_cast<double>(block);
    enough = mass >= kEnough;
  }
  head.oracle_blocks += oracle;
  head.tokens_for_95 += taken;
}

void Measurement::measure_row(const Tensor& q, const Tensor& k, const Tensor& v, const PlanView& plan, Index kv_head,
                              Index p, HeadPatterns& head) {
  const FullRow full = full_row(q, k, v, p);
  const std::vector<Span> spans = spans_of(plan, 0, kv_head, p);
  const ExactRow sparse = exact_row(q, k, v, spans, plan.shape.pooling);
  const std::vector<double> shares = shares_of(sparse, spans);
  for (std::size_t i = 0; i < spans.size(); ++i) {
    if (spans[i].kind == Span::Kind::kNear) head.near += shares[i];
    if (spans[i].kind == Span::Kind::kBlock) head.blocks += shares[i];
    if (spans[i].kind != Span::Kind::kFar) continue;
    const auto level = static_cast<std::size_t>(spans[i].level);
    if (head.far.size() <= level) head.far.resize(level + 1, 0);
    head.far[level] += shares[i];
  }
  const std::vector<bool> attended = attended_tokens(spans, full.weights.size());
  double count = 0;
  for (std::size_t t = 0; t < attended.size(); ++t) {
    const std::size_t bin = distance_bin(p - static_cast<Index>(t));
    head.true_by_distance[bin] += full.weights[t];
    if (!attended[t]) continue;
    head.held_by_distance[bin] += full.weights[t];
    head.mass += full.weights[t];
    ++count;
  }
  head.attended += count;
  head.attended_last = count;  // positions ascend
  head.oracle_tokens += sum_of_heaviest(full.weights, static_cast<std::size_t>(count));
  measure_oracle(full, spans, plan.shape.block, head);
  head.error += ((sparse.output - full.output).norm() / full.output.norm()).item<double>();
  head.sentence += emphasis(full.weights, boundaries_.sentence);
  head.paragraph += emphasis(full.weights, boundaries_.paragraph);
}

void divide(HeadPatterns& head, double count) {
  for (double* sum : {&head.mass, &head.oracle_blocks, &head.oracle_tokens, &head.tokens_for_95, &head.attended,
                      &head.error, &head.near, &head.blocks, &head.sentence, &head.paragraph}) {
    *sum /= count;
  }
  for (auto* sums : {&head.far, &head.true_by_distance, &head.held_by_distance}) {
    for (double& sum : *sums) sum /= count;
  }
}

void Measurement::measure_layer(Index layer, const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor queries = q.detach().to(at::kFloat), keys = k.detach().to(at::kFloat),
               values = v.detach().to(at::kFloat);
  const PlanOptions options = options_.attention.plan_options();
  const Tensor kept = plan_of(options, queries, keys);
  const PlanView plan = plan_view(options, queries, keys, kept);
  report_.block = plan.shape.block;
  const Index group = q.size(1) / k.size(1);
  const std::vector<Index> positions = even_positions(q.size(2), options_.positions);
  for (Index h = 0; h < q.size(1); ++h) {
    HeadPatterns head;
    head.layer = layer, head.head = h;
    head.true_by_distance.resize(kDistanceBins), head.held_by_distance.resize(kDistanceBins);
    const Tensor query = queries[0][h].to(at::kDouble), key = keys[0][h / group].to(at::kDouble),
                 value = values[0][h / group].to(at::kDouble);
    for (const Index p : positions) measure_row(query[p], key, value, plan, h / group, p, head);
    divide(head, static_cast<double>(positions.size()));
    report_.heads.push_back(head);
    explore(query, key, value, plan, h / group, layer, h);
  }
  measure_budgets(queries, keys);
}

// The lists of other budgets, held against the same true attention.
void Measurement::measure_budgets(const Tensor& q, const Tensor& k) {
  const Index group = q.size(1) / k.size(1);
  const std::vector<Index> positions = even_positions(q.size(2), options_.positions);
  if (report_.budgets.empty()) {
    for (const double factor : kBudgetFactors) {
      BudgetPoint point;
      point.top_k = std::llround(factor * static_cast<double>(options_.attention.hsa.top_k));
      point.least_mass = 1;
      report_.budgets.push_back(point);
    }
  }
  for (std::size_t i = 0; i < report_.budgets.size(); ++i) {
    BudgetPoint& point = report_.budgets[i];
    PlanOptions options = options_.attention.plan_options();
    options.hsa.top_k = point.top_k;
    options.hsa.head_top_k.clear();
    options.hsa.candidates = std::llround(kBudgetFactors[i] * static_cast<double>(options_.attention.hsa.candidates));
    const Tensor kept = plan_of(options, q, k);
    const PlanView plan = plan_view(options, q, k, kept);
    for (Index h = 0; h < q.size(1); ++h) {
      const Tensor query = q[0][h].to(at::kDouble), key = k[0][h / group].to(at::kDouble);
      double mass = 0, attended = 0;
      for (const Index p : positions) {
        const FullRow full = full_row(query[p], key, key, p);
        const std::vector<bool> held = attended_tokens(spans_of(plan, 0, h / group, p), full.weights.size());
        for (std::size_t t = 0; t < held.size(); ++t) {
          if (held[t]) mass += full.weights[t], ++attended;
        }
      }
      const auto count = static_cast<double>(positions.size());
      point.mass += mass / count, point.attended += attended / count;
      point.least_mass = std::min(point.least_mass, mass / count);
    }
  }
  budget_heads_ += static_cast<double>(q.size(1));
}

// Positions of the last three quarters.
void Measurement::explore(const Tensor& q, const Tensor& k, const Tensor& v, const PlanView& plan, Index kv_head,
                          Index layer, Index head) {
  if (options_.explore == 0) return;
  const Index first = q.size(0) / 4;
  for (const Index later : even_positions(q.size(0) - first, options_.explore)) {
    const Index p = first + later;
    ExploredRow row{layer, head, p, full_row(q[p], k, v, p).weights, spans_of(plan, 0, kv_head, p), {}};
    row.shares = shares_of(exact_row(q[p], k, v, row.spans, plan.shape.pooling), row.spans);
    report_.rows.push_back(std::move(row));
  }
}

void Measurement::finish() {
  for (BudgetPoint& point : report_.budgets) point.mass /= budget_heads_, point.attended /= budget_heads_;
}

}  // namespace

PatternsReport measure_patterns(const PatternsOptions& o, const std::atomic<bool>& interrupted) {
  check(o.context >= 1 && o.context <= 1 << 20, "context is ", o.context, "; 1 to 1048576 is right");
  check(o.positions >= 1 && o.explore >= 0, "positions is ", o.positions, ", explore is ", o.explore,
        "; at least 1 and 0 are right");
  check(o.attention.attention == "hsa", "attention is ", o.attention.attention, "; hsa is right");
  check_attention_options(o.attention);
  use_threads(o.threads);
  PatternsReport report;
  report.model_file = model_file_of(o.model);
  const auto model = load_model(report.model_file);
  report.trained_with = model->config().attention.attention;
  const auto tokenizer = tokenizer_beside(report.model_file, model->config().tokenizer);
  const std::vector<int64_t> text = first_tokens(o.text, o.context, tokenizer.get());
  report.text = texts_of(text, tokenizer.get());
  report.bytes = tokenizer == nullptr;
  report.tokens = static_cast<Index>(text.size());
  Measurement measurement(o, report);
  model->set_probe([&](Index layer, const Tensor& q, const Tensor& k, const Tensor& v) {
    if (!interrupted) measurement.measure_layer(layer, q, k, v);
  });
  const at::NoGradGuard no_gradient;
  model->hidden(at::tensor(text).unsqueeze(0));
  measurement.finish();
  report.interrupted = interrupted;
  return report;
}

}  // namespace hsattn::lm
