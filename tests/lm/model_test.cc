#include <gtest/gtest.h>

#include "hsattn/base/error.h"
#include "lm/data/token_file.h"
#include "lm/data/token_writer.h"
#include "lm/eval/check_op.h"
#include "lm/eval/evaluate.h"
#include "lm/eval/exact_rows.h"
#include "lm/eval/spans.h"
#include "lm/model/model_file.h"
#include "lm/model/precision.h"
#include "lm/model/transformer.h"
#include "lm/train/environment.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using at::Tensor;

constexpr Index kTokens = 300;

// Small, with budgets so tight that every stage of the search acts at kTokens.
ModelConfig small_model(const std::string& attention) {
  ModelConfig config;
  config.layers = 2, config.width = 64, config.heads = 4, config.kv_heads = 2, config.vocabulary = 50;
  config.attention.attention = attention;
  config.attention.segment = 32, config.attention.longest = kTokens + 10;
  HsaOptions& o = config.attention.hsa;
  o.window = 16, o.top_k = 32, o.candidates = 64, o.top_nodes = 8, o.dense_until = 0;
  return config;
}

Tensor tokens(Index begin = 0) { return (at::arange(begin, begin + kTokens).pow(2) % 47).unsqueeze(0); }

double difference(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }

struct LossAndGradients {
  double loss;
  std::vector<Tensor> gradients;
};

LossAndGradients run(Transformer& model, bool bf16 = false) {
  for (auto& [name, parameter] : model.parameters()) parameter.mutable_grad() = Tensor();
  const Autocast autocast(bf16);
  const Tensor loss = model.loss(tokens(), tokens(1));
  loss.backward();
  LossAndGradients result{loss.item<double>(), {}};
  for (const auto& [name, parameter] : model.parameters()) result.gradients.push_back(parameter.grad().clone());
  return result;
}

TEST(Transformer, AttentionsThatAreTheSameFunctionGiveTheSameModel) {
  ModelConfig covering = small_model("hsa");  // top_k covers the past
  covering.attention.hsa.top_k = covering.attention.hsa.candidates = 2 * kTokens;
  const ModelConfig others[] = {small_model("sdpa"), small_model("full"), covering};
  Transformer standard(small_model("standard"), 1);
  const LossAndGradients exact = run(standard);
  EXPECT_NEAR(standard.statistics().attended_per_call(), (kTokens + 1) / 2.0, 1e-9);
  for (const ModelConfig& config : others) {
    SCOPED_TRACE(config.attention.attention);
    Transformer model(config, 1);
    const LossAndGradients got = run(model);
    EXPECT_NEAR(got.loss, exact.loss, 1e-5);
    EXPECT_NEAR(model.statistics().attended_per_call(), (kTokens + 1) / 2.0, 1e-9);
    EXPECT_GT(model.statistics().seconds, 0);
    for (std::size_t i = 0; i < got.gradients.size(); ++i)
      EXPECT_LE(difference(got.gradients[i], exact.gradients[i]), 1e-5);
  }
}

TEST(Transformer, SparseAttentionIsAnotherFunction) {
  Transformer full(small_model("full"), 1), hsa(small_model("hsa"), 1);
  EXPECT_GT(difference(full.hidden(tokens()), hsa.hidden(tokens())), 1e-6);
  EXPECT_LT(hsa.statistics().attended_per_call(), 16 + 8 + 8 + 32 + 1);  // window, its rounding, sinks, top_k
}

TEST(Transformer, CheckpointingCountsAttendedTokensOnce) {
  Transformer plain(small_model("hsa"), 1), checkpointed(small_model("hsa"), 1);
  checkpointed.set_checkpointing(true);
  run(plain);
  run(checkpointed);
  EXPECT_EQ(checkpointed.statistics().attended_per_call(), plain.statistics().attended_per_call());
}

std::vector<std::string> every_attention() {
  std::vector<std::string> names = pattern_names();
  names.insert(names.end(), {"standard", "sdpa", "linear", "performer", "linformer"});
  return names;
}

TEST(Transformer, NoTokenSeesALaterOne) {
  const at::NoGradGuard no_gradient;
  constexpr Index kCut = 171;
  Tensor changed = tokens().clone();
  changed.slice(1, kCut).add_(1);
  for (const std::string& attention : every_attention()) {
    SCOPED_TRACE(attention);
    ModelConfig config = small_model(attention);
    config.attention.hsa.far_field = true;
    Transformer model(config, 1);
    const Tensor before = model.hidden(tokens()), after = model.hidden(changed);
    EXPECT_TRUE(at::equal(before.slice(0, 0, kCut), after.slice(0, 0, kCut)));
    EXPECT_GT(difference(before.slice(0, kCut), after.slice(0, kCut)), 1e-4);
  }
}

TEST(Transformer, GradientIsTheSlopeOfTheLoss) {
  for (const char* attention : {"hsa", "linear", "performer", "linformer"}) {
    SCOPED_TRACE(attention);
    Transformer model(small_model(attention), 1);
    const LossAndGradients at_start = run(model);
    double slope = 0;
    for (const Tensor& gradient : at_start.gradients) slope += gradient.pow(2).sum().item<double>();
    const double step = 1e-3 / slope;  // the loss should fall by about 1e-3
    {
      const at::NoGradGuard no_gradient;
      std::size_t i = 0;
      for (auto& [name, parameter] : model.parameters()) parameter.sub_(at_start.gradients[i++], step);
    }
    EXPECT_NEAR(at_start.loss - run(model).loss, 1e-3, 2e-4);
  }
}

TEST(Transformer, QueriesAndKeysMayHearOfTheTokensBeforeTheirs) {
  ModelConfig config = small_model("full");
  const Index without = config.parameters();
  config.taps = 3;
  EXPECT_EQ(config.parameters() - without, 2 * 3 * (4 + 2) * 16);
  Transformer model(config, 1);
  Index count = 0;
  for (const auto& [name, parameter] : model.parameters()) count += parameter.numel();
  EXPECT_EQ(count, config.parameters());
  for (const Tensor& gradient : run(model).gradients) EXPECT_GT(gradient.abs().max().item<double>(), 0);

  const at::NoGradGuard no_gradient;
  constexpr Index kCut = 171;
  Tensor changed = tokens().clone();
  changed.slice(1, kCut).add_(1);
  const Tensor before = model.hidden(tokens()), after = model.hidden(changed);
  EXPECT_TRUE(at::equal(before.slice(0, 0, kCut), after.slice(0, 0, kCut)));
  for (auto& [name, parameter] : model.parameters()) {
    if (name.ends_with("taps")) parameter.view({3, -1}).slice(0, 1).zero_();  // a token's own alone
  }
  EXPECT_GT(difference(model.hidden(tokens()), before), 1e-3);
}

TEST(Transformer, LinformerSharesItsProjections) {
  const auto parameters = [](const ModelConfig& config) {
    Index sum = 0;
    for (const auto& [name, parameter] : Transformer(config, 1).parameters()) sum += parameter.numel();
    EXPECT_EQ(sum, config.parameters());
    return sum;
  };
  ModelConfig config = small_model("hsa");
  const Index without = parameters(config), one = config.attention.rank * config.attention.longest;
  config.attention.attention = "linformer";
  EXPECT_EQ(parameters(config) - without, one);
  config.attention.sharing = "key_value";
  EXPECT_EQ(parameters(config) - without, 2 * one);
  config.attention.sharing = "heads";
  EXPECT_EQ(parameters(config) - without, 4 * one);
  Transformer model(config, 1);
  for (const Tensor& gradient : run(model).gradients) EXPECT_GT(gradient.abs().max().item<double>(), 0);

  config.attention.longest = kTokens - 1;
  EXPECT_THROW(Transformer(config, 1).hidden(tokens()), InvalidArgument);
  Transformer other(small_model("hsa"), 1);
  other.set_attention(small_model("linformer").attention);
  EXPECT_THROW(other.hidden(tokens()), InvalidArgument);
}

TEST(Transformer, PerformerDrawsItsFeaturesFromTheSeed) {
  const at::NoGradGuard no_gradient;
  Transformer model(small_model("performer"), 1);
  const Tensor first = model.hidden(tokens());
  model.draw_features(7);
  EXPECT_EQ(model.config().attention.feature_seed, 7);
  const Tensor other = model.hidden(tokens());
  EXPECT_GT(difference(first, other), 1e-6);
  ModelConfig config = small_model("performer");
  config.attention.feature_seed = 7;
  EXPECT_TRUE(at::equal(Transformer(config, 1).hidden(tokens()), other));
  config.attention.redraw = 10;
  EXPECT_EQ(config.attention.feature_seed_at(9), 7);
  EXPECT_EQ(config.attention.feature_seed_at(10), 8);
}

TEST(Transformer, RecomputingBlocksChangesNoBit) {
  for (const char* attention : {"sdpa", "hsa", "linear", "performer", "linformer"}) {
    ModelConfig config = small_model(attention);
    config.attention.sharing = "heads";  // what layers share adds up its gradients in another order
    Transformer plain(config, 1), recomputing(config, 1);
    recomputing.set_checkpointing(true);
    const LossAndGradients a = run(plain), b = run(recomputing);
    EXPECT_EQ(a.loss, b.loss);
    for (std::size_t i = 0; i < a.gradients.size(); ++i) EXPECT_TRUE(at::equal(a.gradients[i], b.gradients[i]));
  }
}

TEST(Transformer, Bf16IsCloseToFloat32OrRefused) {
  if (!has_fast_bf16()) {
    EXPECT_EQ(resolve_precision("auto"), "float32");
    EXPECT_THROW(resolve_precision("bf16"), Unsupported);
    return;
  }
  EXPECT_EQ(resolve_precision("auto"), "bf16");
  for (const char* attention : {"sdpa", "hsa"}) {
    Transformer model(small_model(attention), 1);
    const double exact = run(model).loss, rounded = run(model, /*bf16=*/true).loss;
    EXPECT_NEAR(rounded, exact, 5e-3);
    EXPECT_NE(rounded, exact);
  }
}

// Gradients of the poolers' parameters are slopes, too: those of others are in GradientIsTheSlopeOfTheLoss.
TEST(Pooling, PoolersAreParametersThatLearn) {
  for (const char* pooling : {"attention", "attention_paper", "learnable"}) {
    for (const bool per_layer : {false, true}) {
      SCOPED_TRACE(std::string(pooling) + (per_layer ? ", per layer" : ", shared"));
      ModelConfig config = small_model("hsa");
      config.attention.pooling = pooling;
      config.attention.hsa.far_field = true;
      config.pooler_per_layer = per_layer;
      Transformer model(config, 1);
      const auto parameters = model.parameters();
      Index count = 0;
      for (const auto& [name, parameter] : parameters) count += parameter.numel();
      EXPECT_EQ(count, config.parameters());
      EXPECT_EQ(parameters[per_layer ? 8 : parameters.size() - 1].first, per_layer ? "blocks.0.pooler" : "pooler");
      const LossAndGradients at_start = run(model);
      double slope = 0;
      for (std::size_t i = 0; i < parameters.size(); ++i) {
        if (parameters[i].first.ends_with("pooler")) slope += at_start.gradients[i].pow(2).sum().item<double>();
      }
      ASSERT_GT(slope, 0);
      const double step = 2e-4 / slope;
      {
        const at::NoGradGuard no_gradient;
        for (std::size_t i = 0; i < parameters.size(); ++i) {
          at::Tensor parameter = parameters[i].second;
          if (parameters[i].first.ends_with("pooler")) parameter.sub_(at_start.gradients[i], step);
        }
      }
      EXPECT_LT(run(model).loss, at_start.loss);
    }
  }
}

TEST(Pooling, StartsAsTheMean) {
  ModelConfig config = small_model("hsa");
  config.attention.hsa.far_field = true;
  Transformer mean(config, 1);
  const LossAndGradients right = run(mean);
  for (const char* pooling : {"attention", "learnable"}) {
    config.attention.pooling = pooling;
    Transformer model(config, 1);
    EXPECT_NEAR(run(model).loss, right.loss, 1e-4);
    model.set_checkpointing(true);
    EXPECT_NEAR(run(model).loss, right.loss, 1e-4);
    AttentionOptions other = config.attention;
    other.pooling = "max";
    model.set_attention(other);
    const at::NoGradGuard no_gradient;
    EXPECT_GT(std::abs(model.loss(tokens(), tokens(1)).item<double>() - right.loss), 1e-6);
  }
}

TEST(Pooling, IsSavedWithTheModel) {
  const test::TemporaryFolder folder;
  const at::NoGradGuard no_gradient;
  ModelConfig config = small_model("hsa");
  config.attention.pooling = "attention";
  config.attention.hsa.far_field = true;
  Transformer model(config, 1);
  model.parameters().back().second.normal_(0, 1);
  save_model(folder.file("model.safetensors"), model);
  const auto read = load_model(folder.file(""));
  EXPECT_TRUE(at::equal(read->hidden(tokens()), model.hidden(tokens())));
  EXPECT_FALSE(at::equal(read->hidden(tokens()), Transformer(config, 1).hidden(tokens())));
  AttentionOptions near = config.attention;
  near.hsa.far_field = false;  // no gradient is asked for
  read->set_attention(near);
  EXPECT_FALSE(at::equal(read->hidden(tokens()), model.hidden(tokens())));
}

TEST(Pooling, WrongOptionsAreRefused) {
  ModelConfig config = small_model("hsa");
  config.attention.pooling = "median";
  EXPECT_EQ(test::message_of([&] { check_model_config(config); }),
            "pooling is median; mean, max, attention, attention_paper or learnable are right");
  config.attention.pooling = "learnable";
  check_model_config(config);
  config.attention.hsa.far_field = false;
  Transformer model(config, 1);
  EXPECT_EQ(test::message_of([&] { run(model); }),
            "attention: the parameters of pooling learnable require a gradient, which reaches them through the far "
            "field alone, and that is off; set far_field");
  AttentionOptions other = config.attention;
  other.pooling = "attention";
  EXPECT_EQ(test::message_of([&] { model.set_attention(other); }),
            "pooling is attention, whose parameters this model does not have; it was trained with pooling learnable");
  config.attention.attention = "full";
  EXPECT_EQ(test::message_of([&] { check_model_config(config); }),
            "pooling is learnable, which has parameters, and attention is full; only hsa pools");
}

TEST(ModelFile, ReturnsTheModel) {
  const test::TemporaryFolder folder;
  const at::NoGradGuard no_gradient;
  Transformer model(small_model("hsa"), 1);
  save_model(folder.file("model.safetensors"), model);
  const auto read = load_model(folder.file(""));
  EXPECT_TRUE(at::equal(read->hidden(tokens()), model.hidden(tokens())));
  EXPECT_EQ(read->config().attention.hsa.top_k, 32);
  Transformer larger(ModelConfig(), 1);
  EXPECT_NE(test::message_of([&] { load_weights(folder.file("model.safetensors"), larger); }), "");
}

TEST(Evaluate, EqualsTheLossOfItsWindows) {
  const test::TemporaryFolder folder;
  std::string text;
  for (Index i = 0; i < 4 * kTokens + 1; ++i) text.push_back(static_cast<char>(i * i % 47));
  write_byte_tokens(folder.file("a.tokens"), std::vector<std::string_view>{text});
  const TokenFile file(folder.file("a.tokens"));
  Transformer model(small_model("hsa"), 1);
  const std::atomic<bool> never{false}, always{true};
  const EvalResult result = evaluate_model(model, file, kTokens, 0, /*bf16=*/false, never);
  double loss = 0;
  std::vector<int64_t> window(kTokens + 1);
  for (Index i = 0; i < 4; ++i) {
    file.copy(i * kTokens, window);
    const Tensor all = at::tensor(window).unsqueeze(0);
    loss += model.loss(all.slice(1, 0, kTokens), all.slice(1, 1)).item<double>() / 4;
  }
  EXPECT_EQ(result.windows, 4);
  EXPECT_NEAR(result.loss, loss, 1e-5);
  EXPECT_TRUE(evaluate_model(model, file, kTokens, 0, false, always).interrupted);
}

TEST(CheckOp, AcceptsTheKernels) {
  PlanOptions options;
  options.hsa = small_model("hsa").attention.hsa;
  options.hsa.far_field = true;
  const Tensor q = at::sin(at::arange(4 * kTokens * 16)).view({1, 4, kTokens, 16}), k = at::cos(q * 7);
  const OpCheck right = check_op(options, q, k, k, 16, /*backward=*/true);
  EXPECT_LE(right.forward_error, 1e-5);
  EXPECT_LE(right.backward_error, 1e-5);
  EXPECT_GT(right.forward_error, 0);
  PlanOptions maxima = options;
  maxima.hsa.pooling = Pooling::kMax;
  maxima.hsa.mass = 0.5;
  const OpCheck right_too = check_op(maxima, q, k, k, 16, /*backward=*/true);
  EXPECT_LE(right_too.forward_error, 1e-5);
  EXPECT_LE(right_too.backward_error, 1e-5);
  // One token: the exact dq and dk are zero, and rounding beside them is no error.
  const Tensor one = q.slice(2, 0, 1);
  EXPECT_LE(check_op(options, one, one, one, 1, /*backward=*/true).backward_error, 1e-5);
}

TEST(ExactRow, IsAttentionAndNoticesOneMissingToken) {
  const Tensor q = at::ones({16}, at::kDouble), k = at::sin(at::arange(40 * 16, at::kDouble)).view({40, 16});
  const Tensor weights = at::softmax(at::mv(k, q) / 4, 0);
  EXPECT_LE(difference(exact_row(q, k, k, {{Span::Kind::kNear, 0, 40, 0}}).output, at::mv(k.t(), weights)), 1e-12);
  const std::vector<Span> missing = {{Span::Kind::kNear, 21, 40, 0}, {Span::Kind::kBlock, 0, 20, 0}};
  EXPECT_GT(difference(exact_row(q, k, k, missing).output, at::mv(k.t(), weights)), 1e-4);
  // A node of equal tokens is as good as the tokens themselves.
  const Tensor same = k.slice(0, 0, 1).expand({40, 16});
  const std::vector<Span> pooled = {{Span::Kind::kNear, 32, 40, 0}, {Span::Kind::kFar, 0, 32, 2}};
  const ExactRow row = exact_row(q, same, same, pooled);
  EXPECT_NEAR(row.probabilities[row.first[1]].item<double>(), 32.0 / 40, 1e-12);
}

TEST(Spans, CoverTheTokensThatThePlanCounts) {
  PlanOptions options;
  options.hsa = small_model("hsa").attention.hsa;
  options.hsa.far_field = true;
  Plan plan;
  plan.shape = plan_shape(options, DType::kFloat32, 1, 1, kTokens, kTokens);
  plan.blocks.assign(static_cast<std::size_t>(kTokens * plan.shape.slots()), -1);
  for (Index p = 0; p < kTokens; ++p) {
    if (plan.shape.left(p).size() > 2) plan.blocks[static_cast<std::size_t>(p * plan.shape.slots())] = 2;
  }
  ASSERT_EQ(covers_each_token_once(plan), "");
  for (const Index p : even_positions(kTokens, 20)) {
    Index covered = 0;
    for (const Span& span : spans_of(plan, 0, 0, p)) covered += span.size();
    EXPECT_EQ(covered, p + 1);
  }
}

}  // namespace
}  // namespace hsattn::lm
