#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/streaming.h"
#include "hsattn/base/error.h"
#include "lm/data/documents.h"
#include "lm/pretrained/generate_options.h"
#include "lm/pretrained/runtime.h"

namespace hsattn::cli {
namespace {

std::vector<lm::Token> prompt_of(const lm::Runtime& runtime, const lm::GenerateOptions& o) {
  std::string text = o.prompt;
  if (!o.text.empty()) text = lm::read_documents({o.text}, "text").items.at(0).text;
  std::vector<lm::Token> tokens = runtime.tokenizer().with_template(runtime.encode(text));
  if (o.context > 0 && static_cast<Index>(tokens.size()) > o.context)
    tokens.resize(static_cast<std::size_t>(o.context));
  return tokens;
}

void check_options(const lm::GenerateOptions& o) {
  lm::check_pretrained_options(o);
  check_sampling_options(o.sampling.over({}));
  check(o.prompt.empty() || o.text.empty(), "--prompt and --text are given; one of them is right");
  check(!o.prompt.empty() || !o.text.empty(), "no --prompt and no --text; one of them is right");
  check(o.context >= 0, "context is ", o.context, "; at least 0 is right");
  check(o.max_tokens >= 0, "max_tokens is ", o.max_tokens, "; at least 0 is right");
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::GenerateOptions options;
  parse_arguments(arguments, options);
  check_options(options);
  lm::Runtime runtime(options);
  lm::GenerateRequest request;
  request.prompt = prompt_of(runtime, options);
  request.max_tokens = options.max_tokens;
  request.sampling = options.sampling.over(runtime.defaults().sampling);
  request.stop_words = options.stop;
  request.ignore_end = options.ignore_end;
  const lm::GenerateResult result = runtime.generate(request, interrupted(), [&](const std::string& text) {
    if (!options.json) stream_out(text);
  });
  if (options.json) {
    nlohmann::ordered_json json = to_json(request, result);
    json.update(
        {{"model", options.model}, {"attention", options.attention.attention}, {"precision", runtime.precision()}});
    out << json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
  } else {
    stream_out("\n");
  }
  Progress().line(describe_speed(request, result));
  return result.finish == "interrupted" ? kInterrupted : kSuccess;
}

void print(std::ostream& out) {
  lm::GenerateOptions options;
  print_options(options, out);
}

}  // namespace

Command generate_command() {
  return {
      "generate", "a pretrained model goes on with a text",
      "  hsattn generate --model models/smollm2-135m-instruct --prompt \"The capital of France is\" --max-tokens 20\n"
      "  hsattn generate --model models/smollm2-135m-instruct --text long.txt --attention hsa --top-k 768\n"
      "  hsattn generate --model models/smollm2-135m-instruct --prompt \"Once\" --temperature 0.8 --top-p 0.9 --seed "
      "7\n",
      run, print};
}

}  // namespace hsattn::cli
