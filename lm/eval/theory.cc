#include "lm/eval/theory.h"

#include "hsattn/base/error.h"
#include "hsattn/plan/plan.h"
#include "lm/data/files.h"
#include "lm/data/first_tokens.h"
#include "lm/data/text_encoder.h"
#include "lm/eval/exact_rows.h"
#include "lm/model/model_file.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

// A row of a head: tokens that are attended one by one, then those behind pooled nodes.
PooledRow row_of(const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<Span>& spans) {
  PooledRow row;
  row.dim = v.size(1);
  row.first = {0};
  const Tensor scores = at::mv(k, q) / std::sqrt(static_cast<double>(q.size(0)));
  const auto* score = scores.const_data_ptr<double>();
  const auto* value = v.const_data_ptr<double>();
  for (const Span& span : spans) {
    for (Index t = span.begin; t < span.end; ++t) {
      row.scores.push_back(score[t]);
      row.values.insert(row.values.end(), value + t * row.dim, value + (t + 1) * row.dim);
      if (span.kind != Span::Kind::kFar) row.first.push_back(static_cast<Index>(row.scores.size()));
    }
    if (span.kind == Span::Kind::kFar) row.first.push_back(static_cast<Index>(row.scores.size()));
  }
  return row;
}

std::vector<TheoryCase> trained_cases(const TheoryOptions& o, const std::atomic<bool>& interrupted) {
  check(!o.text.empty(), "no --text; with --model, name a text that it reads");
  const std::string file = model_file_of(o.model);
  const auto model = load_model(file);
  const ModelConfig& config = model->config();
  AttentionOptions attention = config.attention;
  attention.attention = "hsa";
  attention.hsa.far_field = true;
  const PlanOptions options = attention.plan_options();
  const std::vector<int64_t> tokens = first_tokens(o.text, o.context, tokenizer_beside(file, config.tokenizer).get());
  const Index heads = config.layers * config.heads, per_head = (o.cases + heads - 1) / heads;
  std::vector<TheoryCase> cases;
  bool pooled = false;
  model->set_probe([&](Index, const Tensor& q, const Tensor& k, const Tensor& v) {
    const Tensor queries = q.detach().to(at::kFloat), keys = k.detach().to(at::kFloat).contiguous();
    const Tensor kept = plan_of(options, queries, keys);
    const PlanView plan = plan_view(options, queries, keys, kept);
    const Index group = q.size(1) / k.size(1);
    for (Index head = 0; head < q.size(1); ++head) {
      const Tensor key = keys[0][head / group].to(at::kDouble).contiguous(),
                   value = v.detach()[0][head / group].to(at::kDouble).contiguous();
      for (const Index p : even_positions(q.size(2), per_head)) {
        if (interrupted || static_cast<Index>(cases.size()) == o.cases) return;
        const Tensor query = queries[0][head][p].to(at::kDouble);
        const PooledRow row = row_of(query, key, value, spans_of(plan, 0, head / group, p));
        pooled = pooled || row.first.size() <= row.scores.size();  // an entry of more than one token
        cases.push_back({p + 1, pooled_error(row)});
      }
    }
  });
  const at::NoGradGuard no_gradient;
  model->hidden(at::tensor(tokens).unsqueeze(0));
  check(pooled || interrupted, "nothing is pooled in ", tokens.size(), " tokens: the model's HSA attends ",
        dense_until_of(attention.hsa, DType::kFloat32),
        " whole, and window, sinks and top_k of longer ones; a longer --context is right");
  return cases;
}

}  // namespace

std::vector<TheoryCase> theory_cases(const TheoryOptions& o, const std::atomic<bool>& interrupted) {
  check(o.cases >= 1, "cases is ", o.cases, "; at least 1 is right");
  check(o.context >= 1 && o.context <= 1 << 20, "context is ", o.context, "; 1 to 1048576 is right");
  use_threads(o.threads);
  if (!o.model.empty()) return trained_cases(o, interrupted);
  std::vector<TheoryCase> cases;
  for (Index i = 0; i < o.cases && !interrupted; ++i) {
    const PooledRow row = random_row(i, o.seed);
    cases.push_back({static_cast<Index>(row.scores.size()), pooled_error(row)});
  }
  return cases;
}

}  // namespace hsattn::lm
