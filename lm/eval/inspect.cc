#include "lm/eval/inspect.h"

#include <algorithm>
#include <filesystem>

#include "hsattn/base/error.h"
#include "lm/data/first_tokens.h"
#include "lm/data/text_encoder.h"
#include "lm/eval/exact_rows.h"
#include "lm/model/model_file.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

// [1, n] tokens from the start of a text or a token file.
Tensor read_tokens(const InspectOptions& o, const Tokenizer* tokenizer) {
  return at::tensor(first_tokens(o.text, o.context, tokenizer)).unsqueeze(0);
}

AttentionOptions attention_to_show(const AttentionOptions& named, const AttentionOptions& trained) {
  AttentionOptions chosen = choose_attention(named, trained);
  if (chosen.ours()) return chosen;
  check(named.attention == kAsTrained, "attention is ", named.attention, "; one of ", patterns_for_help(), " is right");
  chosen.attention = "hsa";  // trained with full attention: show what HSA would hold of it, with no training
  chosen.preset = "any_model";
  chosen.apply_preset();
  return chosen;
}

// The share of `weights` on each span of a row.
std::vector<double> span_weights(const ExactRow& row, const std::vector<Span>& spans) {
  std::vector<double> sums;
  const Tensor cumulated = at::cat({at::zeros({1}, at::kDouble), row.probabilities.cumsum(0)});
  const auto at_entry = [&](Index i) { return cumulated.const_data_ptr<double>()[i]; };
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const Index end = i + 1 < spans.size() ? row.first[i + 1] : row.probabilities.size(0);
    sums.push_back(at_entry(end) - at_entry(row.first[i]));
  }
  return sums;
}

class Inspector {
 public:
  Inspector(const InspectOptions& options, const Transformer& model, InspectReport& report)
      : options_(options), model_(model), report_(report) {}

  void measure_layer(Index layer, const Tensor& q, const Tensor& k, const Tensor& v) {
    const AttentionOptions attention = report_.attention.of_layer(layer);
    const PlanOptions options = attention.plan_options();
    const Tensor queries = q.detach().to(at::kFloat), keys = k.detach().to(at::kFloat),
                 values = v.detach().to(at::kFloat);
    const Pooled pooled = model_.pooled(layer, attention, keys, values);
    const Tensor kept = plan_of(options, queries, keys, pooled);
    const PlanView plan = plan_view(options, queries, keys, kept);
    report_.block = plan.shape.block;
    const Index group = q.size(1) / k.size(1);
    for (Index head = 0; head < q.size(1); ++head) {
      const auto of_head = [&](const Tensor& x) { return x[0][head / group].to(at::kDouble); };
      ExactNodes nodes;
      if (pooled.k.defined()) nodes = {of_head(pooled.k), of_head(pooled.v), plan.shape.block};
      measure_head(layer, head, queries[0][head].to(at::kDouble), of_head(keys), of_head(values), plan, head / group,
                   pooled.k.defined() ? &nodes : nullptr);
    }
  }

 private:
  void measure_head(Index layer, Index head, const Tensor& q, const Tensor& k, const Tensor& v, const PlanView& plan,
                    Index kv_head, const ExactNodes* nodes) {
    HeadReport report;
    report.layer = layer;
    report.head = head;
    const std::vector<Index> positions = even_positions(q.size(0), options_.positions);
    const bool drawn = layer == report_.drawn_layer && head == report_.drawn_head;
    for (const Index p : positions) {
      const std::vector<Span> spans = spans_of(plan, 0, kv_head, p);
      const ExactRow row = exact_row(q[p], k, v, spans, plan.shape.pooling, nodes);
      const std::vector<double> weights = span_weights(row, spans);
      add_levels(spans, weights, report);
      add_full(q[p], k, p, spans, report);
      if (drawn) report_.rows.push_back({p, spans, weights});
    }
    const double count = static_cast<double>(positions.size());
    for (double* sum : {&report.mass, &report.distance_full, &report.distance_held, &report.near, &report.blocks})
      *sum /= count;
    for (double& sum : report.far) sum /= count;
    report_.heads.push_back(report);
  }

  static void add_levels(const std::vector<Span>& spans, const std::vector<double>& weights, HeadReport& report) {
    for (std::size_t i = 0; i < spans.size(); ++i) {
      if (spans[i].kind == Span::Kind::kNear) report.near += weights[i];
      if (spans[i].kind == Span::Kind::kBlock) report.blocks += weights[i];
      if (spans[i].kind != Span::Kind::kFar) continue;
      const auto level = static_cast<std::size_t>(spans[i].level);
      if (report.far.size() <= level) report.far.resize(level + 1, 0);
      report.far[level] += weights[i];
    }
  }

  // Full attention of the same row: what of it the plan holds, and how far it reaches.
  static void add_full(const Tensor& q, const Tensor& k, Index position, const std::vector<Span>& spans,
                       HeadReport& report) {
    const std::vector<Span> all = {{Span::Kind::kNear, 0, position + 1, 0}};
    const Tensor p = exact_row(q, k, k, all).probabilities;
    const auto* weight = p.const_data_ptr<double>();
    double mass = 0, held = 0, full = 0;
    for (Index t = 0; t <= position; ++t) full += weight[t] * static_cast<double>(position - t);
    for (const Span& span : spans) {
      if (span.kind == Span::Kind::kFar) continue;
      for (Index t = span.begin; t < span.end; ++t) {
        mass += weight[t];
        held += weight[t] * static_cast<double>(position - t);
      }
    }
    report.mass += mass;
    report.distance_full += full;
    report.distance_held += mass > 0 ? held / mass : 0;
  }

  const InspectOptions& options_;
  const Transformer& model_;
  InspectReport& report_;
};

}  // namespace

void check_inspect_options(const InspectOptions& o) {
  check(o.context >= 1 && o.context <= 1 << 20, "context is ", o.context, "; 1 to 1048576 is right");
  check(o.positions >= 1, "positions is ", o.positions, "; at least 1 is right");
  check(o.layer >= -1 && o.head >= 0, "layer is ", o.layer, ", head is ", o.head, "; numbers from 0 on are right");
  check(o.threads >= 0 && o.threads <= 4096, "threads is ", o.threads, "; 0 to 4096 is right");
  choose_attention(o.attention, AttentionOptions());
}

InspectReport inspect_model(const InspectOptions& options, const std::atomic<bool>& interrupted) {
  check_inspect_options(options);
  use_threads(options.threads);
  InspectReport report;
  report.model_file = model_file_of(options.model);
  const auto model = load_model(report.model_file);
  const ModelConfig& config = model->config();
  check(options.layer < config.layers && options.head < config.heads, "layer is ", options.layer, ", head is ",
        options.head, "; the model has ", config.layers, " layers of ", config.heads, " heads");
  report.attention = attention_to_show(options.attention, config.attention);
  report.drawn_layer = options.layer < 0 ? config.layers - 1 : options.layer;
  report.drawn_head = options.head;
  const Tensor tokens = read_tokens(options, tokenizer_beside(report.model_file, config.tokenizer).get());
  report.tokens = tokens.size(1);
  Inspector inspector(options, *model, report);
  model->set_probe([&](Index layer, const Tensor& q, const Tensor& k, const Tensor& v) {
    if (!interrupted) inspector.measure_layer(layer, q, k, v);
  });
  const at::NoGradGuard no_gradient;
  model->hidden(tokens);
  report.interrupted = interrupted;
  return report;
}

}  // namespace hsattn::lm
