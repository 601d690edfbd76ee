#include "lm/pretrained/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hsattn/base/error.h"

namespace hsattn::lm {

void check_sampling_options(const SamplingOptions& o) {
  check(o.temperature >= 0 && o.temperature <= 100, "temperature is ", o.temperature, "; 0 to 100 is right");
  check(o.top_p > 0 && o.top_p <= 1, "top_p is ", o.top_p, "; above 0 and at most 1 is right");
  check(o.top_k >= 0, "sample_top_k is ", o.top_k, "; at least 0 is right");
  check(o.repetition_penalty > 0 && o.repetition_penalty <= 100, "repetition_penalty is ", o.repetition_penalty,
        "; above 0 and at most 100 is right");
}

Sampler::Sampler(const SamplingOptions& options)
    : options_(options), random_(static_cast<std::uint64_t>(options.seed)) {
  check_sampling_options(options);
}

Token Sampler::next(std::span<float> logits, std::span<const Token> context) {
  if (options_.repetition_penalty != 1) {
    std::vector<Token> seen(context.begin(), context.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (const Token token : seen) {
      if (token < logits.size()) logits[token] = logits[token] < 0 ? logits[token] * penalty : logits[token] / penalty;
    }
  }
  if (std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); })) {
    throw Error(
        concat("the model's logits behind ", context.size(), " tokens are not numbers; its weights may be broken"));
  }
  if (options_.temperature > 0) return draw(logits);
  return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

Token Sampler::draw(std::span<const float> logits) {
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), Token{0});
  // A heap: the likely ones are few, so not all are sorted.
  const auto less = [&](Token a, Token b) { return logits[a] != logits[b] ? logits[a] < logits[b] : a > b; };
  std::make_heap(order_.begin(), order_.end(), less);
  const double largest = logits[order_.front()];
  const std::size_t most =
      options_.top_k > 0 ? std::min(static_cast<std::size_t>(options_.top_k), order_.size()) : order_.size();
  const auto weight = [&](Token token) { return std::exp((logits[token] - largest) / options_.temperature); };
  double all = 0;  // of what top_p is a share of: the top_k tokens
  if (most == order_.size()) {
    for (const float logit : logits) all += std::exp((logit - largest) / options_.temperature);
  } else {
    for (std::size_t i = 0; i < most; ++i) {
      std::pop_heap(order_.begin(), order_.end() - static_cast<std::ptrdiff_t>(i), less);
      all += weight(order_[order_.size() - 1 - i]);
    }
    std::make_heap(order_.begin(), order_.end(), less);
  }
  weights_.clear();
  double sum = 0;
  while (weights_.size() < most && (sum < options_.top_p * all || weights_.empty())) {
    std::pop_heap(order_.begin(), order_.end() - static_cast<std::ptrdiff_t>(weights_.size()), less);
    weights_.push_back(weight(order_[order_.size() - 1 - weights_.size()]));
    sum += weights_.back();
  }
  double left = static_cast<double>(random_() >> 11) * 0x1p-53 * sum;  // uniform in [0, sum)
  std::size_t chosen = 0;
  while (chosen + 1 < weights_.size() && left >= weights_[chosen]) left -= weights_[chosen++];
  return order_[order_.size() - 1 - chosen];
}

}  // namespace hsattn::lm
