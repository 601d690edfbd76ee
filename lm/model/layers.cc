#include "lm/model/layers.h"

#include <utility>

#include "lm/model/precision.h"

namespace hsattn::lm {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr double kNormEpsilon = 1e-5;
constexpr int64_t kLossChunk = 1024;  // positions; logits of a chunk with 256 tokens fit the cache: 1 MB

// The loss and, while the logits of a chunk are at hand, its gradients.
struct ChunkedCrossEntropy : Function<ChunkedCrossEntropy> {
  static Tensor forward(AutogradContext* ctx, const Tensor& hidden, const Tensor& embedding, const Tensor& targets,
                        bool with_gradient) {
    const Autocast float32(false);
    const int64_t tokens = hidden.size(0);
    Tensor loss = at::zeros({}, hidden.options());
    Tensor dhidden = with_gradient ? at::empty_like(hidden) : Tensor();
    Tensor dembedding = with_gradient ? at::zeros_like(embedding) : Tensor();
    for (int64_t begin = 0; begin < tokens; begin += kLossChunk) {
      const int64_t end = std::min(begin + kLossChunk, tokens);
      const Tensor h = hidden.slice(0, begin, end), t = targets.slice(0, begin, end).unsqueeze(1);
      const Tensor log_p = at::log_softmax(at::matmul(h, embedding.t()), -1);
      loss.sub_(log_p.gather(1, t).sum());
      if (!with_gradient) continue;
      Tensor dlogits = log_p.exp();  // softmax - one hot, over the number of tokens
      dlogits.scatter_add_(1, t, at::full_like(t, -1, dlogits.options())).div_(static_cast<double>(tokens));
      Tensor dh = dhidden.slice(0, begin, end);
      at::mm_out(dh, dlogits, embedding);
      dembedding.addmm_(dlogits.t(), h);
    }
    if (with_gradient) ctx->save_for_backward({dhidden, dembedding});
    return loss.div_(static_cast<double>(tokens));
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {saved[0] * grads[0], saved[1] * grads[0], Tensor(), Tensor()};
  }
};

using Block = std::function<Tensor(const Tensor&)>;

// Keeps a block's input and the function itself; IValue cannot hold a function, so a shared pointer rides in a capsule.
struct BlockHolder : torch::CustomClassHolder {
  explicit BlockHolder(Block b, bool autocast) : block(std::move(b)), autocast_on(autocast) {}
  Block block;
  bool autocast_on;
};

struct Recompute : Function<Recompute> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Block& block) {
    ctx->save_for_backward({x});
    const bool autocast = at::autocast::is_autocast_enabled(at::kCPU);
    ctx->saved_data["block"] = c10::IValue::make_capsule(c10::make_intrusive<BlockHolder>(block, autocast));
    return block(x);  // autograd is off here
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto holder = c10::static_intrusive_pointer_cast<BlockHolder>(ctx->saved_data["block"].toCapsule());
    const Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_();
    Tensor y;
    {
      const at::AutoGradMode on(true);
      const Autocast as_in_forward(holder->autocast_on);
      y = holder->block(x);
    }
    torch::autograd::backward({y}, {grads[0]});
    return {x.grad(), Tensor()};
  }
};

}  // namespace

RotaryTable rotary_table(int64_t tokens, int64_t dim, double base) {
  const Tensor frequency = at::pow(base, at::arange(0, dim, 2, at::kDouble) / static_cast<double>(-dim));
  const Tensor angle = at::outer(at::arange(tokens, at::kDouble), frequency);
  return {angle.cos().to(at::kFloat), angle.sin().to(at::kFloat)};
}

Tensor rotate(const Tensor& x, const RotaryTable& table) {
  const auto halves = x.chunk(2, -1);
  const Tensor cos = table.cos.slice(0, 0, x.size(1)).unsqueeze(1), sin = table.sin.slice(0, 0, x.size(1)).unsqueeze(1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1).to(x.scalar_type());
}

Tensor initial_taps(int64_t taps, int64_t channels, at::Generator& generator) {
  constexpr double kDeviation = 0.3;
  Tensor all = at::empty({taps, channels}, at::kFloat).normal_(0, kDeviation, generator);
  all.select(0, 0).add_(1);
  return all.flatten().requires_grad_();
}

Tensor mix_in_time(const Tensor& x, const Tensor& taps) {
  const int64_t tokens = x.size(1);
  const Tensor weights = taps.view({-1, x.size(2)});
  Tensor y = x * weights.select(0, 0);
  for (int64_t i = 1; i < std::min(weights.size(0), tokens); ++i) {
    y = y + at::constant_pad_nd(x.slice(1, 0, tokens - i) * weights.select(0, i), {0, 0, i, 0});
  }
  return y.to(x.scalar_type());
}

Tensor rms_norm(const Tensor& x, const Tensor& weight) { return at::rms_norm(x, {x.size(-1)}, weight, kNormEpsilon); }

Tensor swiglu(const Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

Tensor chunked_cross_entropy(const Tensor& hidden, const Tensor& embedding, const Tensor& targets) {
  return ChunkedCrossEntropy::apply(hidden, embedding, targets, at::GradMode::is_enabled());
}

Tensor token_losses(const Tensor& hidden, const Tensor& embedding, const Tensor& targets) {
  const at::NoGradGuard no_gradient;
  const Autocast float32(false);
  Tensor losses = at::empty({hidden.size(0)}, hidden.options());
  for (int64_t begin = 0; begin < hidden.size(0); begin += kLossChunk) {
    const int64_t end = std::min(begin + kLossChunk, hidden.size(0));
    const Tensor log_p = at::log_softmax(at::matmul(hidden.slice(0, begin, end), embedding.t()), -1);
    losses.slice(0, begin, end).copy_(log_p.gather(1, targets.slice(0, begin, end).unsqueeze(1)).squeeze(1).neg());
  }
  return losses;
}

Tensor recompute_in_backward(const Block& block, const Tensor& x) { return Recompute::apply(x, block); }

}  // namespace hsattn::lm
