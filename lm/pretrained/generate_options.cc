#include "lm/pretrained/generate_options.h"

namespace hsattn::lm {

void SamplingChoice::visit(OptionVisitor& option) {
  option("temperature", temperature, "0: the most likely token; -1: what generation_config.json says");
  option("top_p", top_p, "sample of the fewest likely tokens that hold this share; -1: as the model says");
  option("sample_top_k", sample_top_k, "sample of so many likely tokens, 0: all; -1: as the model says");
  option("repetition_penalty", repetition_penalty, "for tokens that are there already, 1: none; -1: as the model says");
  option("seed", seed, "of the sampling; the same seed gives the same text");
}

SamplingOptions SamplingChoice::over(const SamplingOptions& of_model) const {
  SamplingOptions options = of_model;
  if (temperature != kAsModel) options.temperature = temperature;
  if (top_p != kAsModel) options.top_p = top_p;
  if (sample_top_k != -1) options.top_k = sample_top_k;
  if (repetition_penalty != kAsModel) options.repetition_penalty = repetition_penalty;
  options.seed = seed;
  return options;
}

void GenerateOptions::visit(OptionVisitor& option) {
  option("prompt", prompt, "the text that the model goes on with");
  option("text", text, "the same out of a file: text, .gz");
  option("context", context, "only so many tokens of the prompt, from its start; 0: all");
  option("max_tokens", max_tokens, "tokens to generate at most");
  option("stop", stop, "words that end the text; may be given several times");
  option("ignore_end", ignore_end, "go on behind tokens that end a text");
  sampling.visit(option);
  option("json", json, "print one JSON object at the end instead of the text as it comes");
  PretrainedOptions::visit(option);
}

void ChatOptions::visit(OptionVisitor& option) {
  option("message", message, "one message to answer; without it messages are the lines of the input");
  option("messages", messages, "a JSON file instead, a list of {\"role\": .., \"content\": ..}: its next answer");
  option("system", system, "a message of the role `system` before all others");
  option("max_tokens", max_tokens, "tokens of an answer at most");
  option("stop", stop, "words that end an answer; may be given several times");
  sampling.visit(option);
  option("show_prompt", show_prompt, "print what the chat template makes of --message or --messages, and stop");
  option("json", json, "print one JSON object for each answer");
  PretrainedOptions::visit(option);
}

void PretrainedEvalOptions::visit(OptionVisitor& option) {
  option("text", text, "text to measure on: a file, .gz, .jsonl or a folder of them");
  option("context", context, "tokens of a window");
  option("windows", windows, "windows, evenly spread over the text; 0: all");
  option("logits", logits, "write the first window's logits to this safetensors file, and stop");
  option("json", json, "print one JSON object");
  PretrainedOptions::visit(option);
}

}  // namespace hsattn::lm
