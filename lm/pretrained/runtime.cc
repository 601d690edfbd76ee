#include "lm/pretrained/runtime.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "hsattn/base/error.h"
#include "hsattn/plan/plan.h"
#include "lm/data/files.h"
#include "lm/model/safetensors.h"
#include "lm/pretrained/decoder.h"
#include "lm/pretrained/head_errors.h"
#include "lm/pretrained/held_mass.h"
#include "lm/pretrained/text_stream.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

constexpr Index kLossRows = 256;  // all logits at once would be large

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

at::Tensor tensor_of(std::span<const Token> tokens) {
  const at::Tensor ids = at::empty({static_cast<Index>(tokens.size())}, at::kLong);
  std::copy(tokens.begin(), tokens.end(), ids.mutable_data_ptr<int64_t>());
  return ids;
}

Tokenizer read_tokenizer(const std::string& folder, const PretrainedConfig& config) {
  Tokenizer tokenizer = Tokenizer::read(folder + "/tokenizer.json");
  if (tokenizer.vocabulary() > config.vocabulary) {
    throw FileError(concat(folder, ": tokenizer.json has tokens up to ", tokenizer.vocabulary() - 1,
                           ", config.json a vocab_size of ", config.vocabulary));
  }
  return tokenizer;
}

// The rules of each layer, which say how long a past is dense: it depends on the type, and on the processor.
std::vector<AttentionOptions> attention_of(const PretrainedConfig& config, const PretrainedOptions& options,
                                           const std::string& precision) {
  std::vector<AttentionOptions> layers = layer_attention(config, options.attention, options.model_budgets);
  const DType type = precision == "bf16" ? DType::kBFloat16 : DType::kFloat32;
  for (AttentionOptions& layer : layers) layer.hsa.dense_until = dense_until_of(layer.hsa, type);
  return layers;
}

}  // namespace

struct Runtime::Parts {
  explicit Parts(const PretrainedOptions& options)
      : config(read_pretrained_config(options.model)),
        precision(resolve_precision(options.precision)),
        attention(attention_of(config, options, precision)),
        tokenizer(read_tokenizer(options.model, config)),
        defaults(read_generation_defaults(options.model)),
        chunk(options.chunk),
        decoder(config, Weights(options.model), precision == "bf16" ? at::kBFloat16 : at::kFloat),
        past(attention) {}

  // States behind tokens[past.tokens():]; those of all of them if asked for, else of the last. Undefined if
  // interrupted.
  at::Tensor read(std::span<const Token> tokens, const std::atomic<bool>& interrupted) {
    const auto length = static_cast<Index>(tokens.size());
    at::Tensor last;
    while (past.tokens() < length) {
      if (interrupted) return {};
      const Index first = past.tokens(), count = chunk > 0 ? std::min(chunk, length - first) : length - first;
      last = decoder.hidden(tensor_of(tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count))),
                            past, length, &interrupted);
      if (!last.defined()) {
        past.crop(first);
        return {};
      }
      held.assign(tokens.begin(), tokens.begin() + past.tokens());
    }
    return last.slice(0, last.size(0) - 1);
  }

  // Calls `visit` with the states [n, width] of each chunk of `tokens`, read from the start, and where it begins.
  void visit_states(std::span<const Token> tokens, const std::function<void(const at::Tensor&, Index)>& visit) {
    const auto length = static_cast<Index>(tokens.size());
    KeyValues fresh(attention);
    fresh.reserve(length);
    while (fresh.tokens() < length) {
      const Index first = fresh.tokens(), count = chunk > 0 ? std::min(chunk, length - first) : length - first;
      const auto part = tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
      const at::Tensor states = decoder.hidden(tensor_of(part), fresh, length);
      for (Index row = 0; row < count; row += kLossRows) {
        visit(states.slice(0, row, std::min(row + kLossRows, count)), first + row);
      }
    }
  }

  // Reads `tokens` with full attention where a layer has no sliding window, and shows what such layers attend.
  void visit_full_layers(const std::vector<Token>& tokens, const KeyValues::Observer& visit) {
    const c10::InferenceMode no_gradient;
    std::vector<AttentionOptions> full = attention;
    for (std::size_t i = 0; i < full.size(); ++i) {
      if (config.windows[i] == 0) full[i].attention = "full";
    }
    KeyValues fresh(std::move(full));
    fresh.observe([&](const LayerInputs& in) {
      if (config.windows[static_cast<std::size_t>(in.layer)] == 0) visit(in);
    });
    decoder.hidden(tensor_of(tokens), fresh);
  }

  PretrainedConfig config;
  std::string precision;
  std::vector<AttentionOptions> attention;
  Tokenizer tokenizer;
  GenerationDefaults defaults;
  Index chunk;
  Decoder decoder;
  KeyValues past;
  std::vector<Token> held;  // the tokens that `past` holds
};

Runtime::Runtime(const PretrainedOptions& options) {
  check_pretrained_options(options);
  use_threads(options.threads);
  parts_ = std::make_unique<Parts>(options);
}

Runtime::~Runtime() = default;

const PretrainedConfig& Runtime::config() const { return parts_->config; }
const Tokenizer& Runtime::tokenizer() const { return parts_->tokenizer; }
const GenerationDefaults& Runtime::defaults() const { return parts_->defaults; }
const std::string& Runtime::precision() const { return parts_->precision; }

const std::vector<AttentionOptions>& Runtime::attention() const { return parts_->attention; }
Index Runtime::cache_bytes() const { return parts_->past.bytes(); }

void Runtime::set_attention(std::vector<AttentionOptions> attention) {
  check(attention.size() == parts_->attention.size(), "set_attention: options for ", attention.size(), " layers; ",
        parts_->attention.size(), " are right");
  parts_->attention = std::move(attention);
  parts_->past = KeyValues(parts_->attention);
  parts_->held.clear();
}

std::vector<Token> Runtime::encode(std::string_view text) const {
  std::vector<Token> tokens;
  Encoder(parts_->tokenizer).append(text, tokens);
  return tokens;
}

GenerateResult Runtime::generate(const GenerateRequest& request, const std::atomic<bool>& interrupted,
                                 const std::function<void(const std::string&)>& show) {
  check(!request.prompt.empty(), "the prompt has no token; at least one is right");
  check(request.max_tokens >= 0, "max_tokens is ", request.max_tokens, "; at least 0 is right");
  const auto start = std::chrono::steady_clock::now();
  Parts& p = *parts_;
  Sampler sampler(request.sampling);
  TextStream stream(request.stop_words);
  GenerateResult result;
  std::vector<Token> all = request.prompt;
  const auto common = std::mismatch(all.begin(), all.end() - 1, p.held.begin(), p.held.end()).first;
  result.reused = common - all.begin();
  p.past.crop(result.reused);
  p.past.reserve(static_cast<Index>(all.size()) + request.max_tokens);
  const auto emit = [&](const std::string& text) {
    result.text += text;
    if (!text.empty()) show(text);
  };
  result.finish = "length";
  while (static_cast<Index>(result.tokens.size()) < request.max_tokens) {
    const at::Tensor state = p.read(all, interrupted);
    if (!state.defined() || interrupted) {
      result.finish = "interrupted";
      break;
    }
    const at::Tensor logits = p.decoder.logits(state);
    const std::span<float> row(logits.mutable_data_ptr<float>(), static_cast<std::size_t>(logits.size(1)));
    const Token token = sampler.next(row.first(static_cast<std::size_t>(p.tokenizer.vocabulary())), all);
    if (result.tokens.empty()) result.first_token_s = seconds_since(start);
    result.tokens.push_back(token);
    all.push_back(token);
    const auto& ends = p.defaults.end;
    if (!request.ignore_end && std::find(ends.begin(), ends.end(), token) != ends.end()) {
      result.finish = "end";
      break;
    }
    if (p.tokenizer.has(token) && !p.tokenizer.is_special(token)) emit(stream.push(p.tokenizer.bytes_of(token)));
    if (stream.stopped()) {
      result.finish = "stop";
      break;
    }
  }
  emit(stream.finish());
  result.seconds = seconds_since(start);
  return result;
}

std::vector<double> Runtime::losses(const std::vector<Token>& tokens) {
  const c10::InferenceMode no_gradient;
  std::vector<double> losses;
  const at::Tensor all = tensor_of(tokens);
  const Index predicted = all.size(0) - 1;
  parts_->visit_states(tokens, [&](const at::Tensor& states, Index first) {
    const Index end = std::min(first + states.size(0), predicted);
    if (end <= first) return;
    const at::Tensor log_p = at::log_softmax(parts_->decoder.logits(states.slice(0, 0, end - first)), -1);
    const at::Tensor loss =
        log_p.gather(1, all.slice(0, first + 1, end + 1).unsqueeze(1)).neg().to(at::kDouble).contiguous();
    losses.insert(losses.end(), loss.const_data_ptr<double>(), loss.const_data_ptr<double>() + loss.numel());
  });
  if (!std::all_of(losses.begin(), losses.end(), [](double loss) { return std::isfinite(loss); })) {
    throw Error(concat("the model's losses of ", losses.size(), " tokens are not finite; its weights may be broken"));
  }
  return losses;
}

std::vector<Token> Runtime::likeliest(const std::vector<Token>& tokens, std::span<const Index> places) {
  const c10::InferenceMode no_gradient;
  std::vector<Token> likeliest;
  auto next = places.begin();
  parts_->visit_states(tokens, [&](const at::Tensor& states, Index first) {
    std::vector<int64_t> rows;
    for (; next != places.end() && *next - 1 < first + states.size(0); ++next) rows.push_back(*next - 1 - first);
    if (rows.empty()) return;
    const at::Tensor logits = parts_->decoder.logits(states.index_select(0, at::tensor(rows)));
    const at::Tensor best = logits.slice(1, 0, parts_->tokenizer.vocabulary()).argmax(-1);
    for (Index i = 0; i < best.size(0); ++i) likeliest.push_back(static_cast<Token>(best[i].item<int64_t>()));
  });
  return likeliest;
}

std::vector<HeldShare> Runtime::held_mass(const std::vector<Token>& tokens,
                                          const std::vector<std::vector<AttentionOptions>>& rows, Index positions) {
  HeldMass mass(rows, positions);
  parts_->visit_full_layers(tokens, [&](const LayerInputs& in) { mass.add(in.layer, in.q, in.k); });
  return mass.shares();
}

std::vector<std::vector<BudgetCurve>> Runtime::head_errors(const std::vector<Token>& tokens,
                                                           const std::vector<AttentionOptions>& layers,
                                                           const std::vector<Index>& top_k,
                                                           const std::function<void()>& before_layer) {
  HeadErrors errors(layers, top_k);
  parts_->visit_full_layers(tokens, [&](const LayerInputs& in) {
    if (before_layer) before_layer();
    errors.add(in);
  });
  return errors.curves();
}

void Runtime::write_logits(const std::vector<Token>& tokens, const std::string& path) {
  const c10::InferenceMode no_gradient;
  std::vector<at::Tensor> rows;
  parts_->visit_states(tokens,
                       [&](const at::Tensor& states, Index) { rows.push_back(parts_->decoder.logits(states)); });
  write_safetensors(path, {{{"logits", at::cat(rows)}, {"tokens", tensor_of(tokens)}}, {}});
}

}  // namespace hsattn::lm
