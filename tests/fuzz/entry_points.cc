#include "entry_points.h"

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "hsattn/base/error.h"
#include "lm/model/safetensors_header.h"
#include "lm/pretrained/chat_template.h"
#include "lm/pretrained/config.h"
#include "lm/pretrained/generation_config.h"
#include "lm/pretrained/weights_index.h"
#include "lm/tokenizer/tokenizer.h"

namespace hsattn::lm::fuzz {
namespace {

// Of the error that `body` throws, if it throws one.
std::string message_of(const std::function<void()>& body) {
  std::string message;
  try {
    body();
  } catch (const Error& error) {
    message = error.what();
  }
  const bool one_line = std::all_of(message.begin(), message.end(), [](char c) { return c >= ' ' || c < 0; });
  if (!one_line) throw std::logic_error("a message that is not one line: " + message);
  return message;
}

std::string read_safetensors(std::string_view bytes) {
  return message_of([&] {
    const SafeTensorsHeader header = read_safetensors_header(bytes, "fuzz.safetensors");
    for (const TensorPlace& place : header.tensors) {
      if (place.begin > bytes.size() || place.bytes > bytes.size() - place.begin)
        throw std::logic_error("outside the file");
    }
  });
}

std::string read_tokenizer(std::string_view bytes) {
  return message_of([&] {
    const Tokenizer tokenizer = Tokenizer::parse(bytes, "tokenizer.json");
    std::vector<Token> tokens;
    Encoder(tokenizer).append("It's 2 caf\xc3\xa9s,  don't\n\n<|endoftext|> \xe4\xb8\x96", tokens);
    for (const Token token : tokens) {
      if (!tokenizer.has(token)) throw std::logic_error("a token that is not there");
    }
    tokenizer.decode(tokens, /*skip_special=*/true);
    tokenizer.with_template(tokens);
  });
}

// The JSON files of a model that are small; each takes what it knows.
std::string read_config(std::string_view bytes) {
  const std::string index = message_of([&] { parse_weights_index(bytes, "index.json"); });
  const std::string generation = message_of([&] { parse_generation_config(bytes, "generation_config.json"); });
  const auto use_budgets = [](const PretrainedConfig& read) {
    AttentionOptions attention;
    attention.preset = "any_model";
    attention.apply_preset();
    set_model_budgets(read, attention);
    layer_attention(read, attention, /*own_layers=*/true);
  };
  const std::string config = message_of([&] { use_budgets(parse_pretrained_config(bytes, "config.json")); });
  message_of([&] {  // what it says of layers is an hsattn.json
    PretrainedConfig two_layers;
    two_layers.layers = 2;
    two_layers.windows = {0, 0};
    set_budgets(bytes, "hsattn.json", two_layers);
    use_budgets(two_layers);
  });
  return index.empty() || generation.empty() ? std::string() : config;
}

std::string read_chat_template(std::string_view bytes) {
  return message_of([&] {
    jinja::Object variables;
    variables.set("bos_token", "<s>");
    const ChatTemplate chat_template(bytes, "chat_template", variables);
    chat_template.render(
        {{"system", "Be kind."}, {"user", "H\xc3\xa9llo"}, {"assistant", " <think>a</think>b "}, {"user", ""}}, true);
  });
}

}  // namespace

const EntryPoint kEntryPoints[4] = {{"safetensors", read_safetensors},
                                    {"tokenizer", read_tokenizer},
                                    {"config", read_config},
                                    {"chat_template", read_chat_template}};

const EntryPoint& entry_point(std::string_view name) {
  for (const EntryPoint& entry : kEntryPoints) {
    if (name == entry.name) return entry;
  }
  throw std::out_of_range("there is no such entry point");
}

}  // namespace hsattn::lm::fuzz
