// A pretrained model that reads and writes text. No torch in this header.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lm/pretrained/allocation.h"
#include "lm/pretrained/generation_config.h"
#include "lm/pretrained/options.h"

namespace hsattn::lm {

struct GenerateRequest {
  std::vector<Token> prompt;  ///< at least one
  Index max_tokens = 256;
  SamplingOptions sampling;
  std::vector<std::string> stop_words;
  bool ignore_end = false;  ///< go on behind tokens that end a text
};

struct GenerateResult {
  std::vector<Token> tokens;  ///< generated; what ended the text among them
  std::string text;           ///< without special tokens, and without the stop word and what follows
  std::string finish;         ///< end | stop | length | interrupted
  Index reused = 0;           ///< tokens of the prompt that an earlier call had read already
  double first_token_s = 0;   ///< until the first token was there
  double seconds = 0;         ///< in all
};

class Runtime {
 public:
  /// Loads a folder. Throws InvalidArgument, FileError, Unsupported.
  explicit Runtime(const PretrainedOptions& options);
  ~Runtime();

  const PretrainedConfig& config() const;
  const Tokenizer& tokenizer() const;
  const GenerationDefaults& defaults() const;
  /// "float32" or "bf16".
  const std::string& precision() const;

  /// The tokens of a text, without a template. Throws InvalidArgument: no UTF-8, or tokens that the model does not
  /// have.
  std::vector<Token> encode(std::string_view text) const;

  /// Goes on with a prompt. What it has in common with the text of the call before is not read again. `show` is called
  /// with whole characters as they come.
  GenerateResult generate(const GenerateRequest& request, const std::atomic<bool>& interrupted,
                          const std::function<void(const std::string&)>& show);

  /// Options of each layer, and other ones from now on (see layer_attention()), with which nothing has been read yet.
  const std::vector<AttentionOptions>& attention() const;
  void set_attention(std::vector<AttentionOptions> attention);
  /// Memory of the keys and values that generate() holds.
  Index cache_bytes() const;

  /// Loss in nats of each token but the first, given those before it.
  std::vector<double> losses(const std::vector<Token>& tokens);
  /// The likeliest token at each of `places` of `tokens`, ascending and above 0, given those before it.
  std::vector<Token> likeliest(const std::vector<Token>& tokens, std::span<const Index> places);
  /// What each of `rows` (options for each layer) attends token by token, and the share of full attention's probability
  /// on it, over `positions` positions of the text, all heads, and the layers without a sliding window.
  std::vector<HeldShare> held_mass(const std::vector<Token>& tokens,
                                   const std::vector<std::vector<AttentionOptions>>& rows, Index positions);
  /// What each of `top_k`, ascending, costs each key/value head, with the other options of its layer: the mean over
  /// tokens of the squared change of what the head adds to the states, as a share of these, in a text that is read with
  /// full attention. [layers][kv_heads]; layers with a sliding window have no heads. `before_layer` may throw.
  std::vector<std::vector<BudgetCurve>> head_errors(const std::vector<Token>& tokens,
                                                    const std::vector<AttentionOptions>& layers,
                                                    const std::vector<Index>& top_k,
                                                    const std::function<void()>& before_layer = {});
  /// Writes the logits behind each token, `logits` [tokens, vocabulary] in float32, as a safetensors file.
  void write_logits(const std::vector<Token>& tokens, const std::string& path);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace hsattn::lm
