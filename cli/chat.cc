#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/streaming.h"
#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/pretrained/chat_template.h"
#include "lm/pretrained/generate_options.h"
#include "lm/pretrained/runtime.h"

namespace hsattn::cli {
namespace {

class Chat {
 public:
  Chat(const lm::ChatOptions& options, lm::ChatTemplate chat_template)
      : options_(options), template_(std::move(chat_template)), runtime_(options) {
    if (!options.system.empty()) messages_.push_back({"system", options.system});
  }

  // False if it was interrupted.
  bool answer(const std::string& message, std::ostream& out) {
    messages_.push_back({"user", message});
    return answer_prompt(template_.render(messages_, /*answer_follows=*/true), out);
  }

  bool answer_prompt(const std::string& prompt, std::ostream& out) {
    lm::GenerateRequest request;
    request.prompt = runtime_.encode(prompt);
    request.max_tokens = options_.max_tokens;
    request.sampling = options_.sampling.over(runtime_.defaults().sampling);
    request.stop_words = options_.stop;
    const lm::GenerateResult result = runtime_.generate(request, interrupted(), [&](const std::string& text) {
      if (!options_.json) stream_out(text);
    });
    messages_.push_back({"assistant", result.text});
    if (options_.json) {
      out << to_json(request, result).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
    } else {
      stream_out("\n");
    }
    progress_.line(describe_speed(request, result));
    return result.finish != "interrupted";
  }

 private:
  const lm::ChatOptions& options_;
  lm::ChatTemplate template_;
  lm::Runtime runtime_;
  std::vector<lm::ChatMessage> messages_;
  Progress progress_;
};

// What --message or --messages asks for.
std::string prompt_of(const lm::ChatOptions& o, const lm::ChatTemplate& chat_template) {
  if (!o.messages.empty()) return chat_template.render_json(lm::read_file(o.messages), /*answer_follows=*/true);
  std::vector<lm::ChatMessage> messages;
  if (!o.system.empty()) messages.push_back({"system", o.system});
  messages.push_back({"user", o.message});
  return chat_template.render(messages, /*answer_follows=*/true);
}

void check_options(const lm::ChatOptions& o) {
  const bool one = !o.message.empty() || !o.messages.empty();
  lm::check_pretrained_options(o);
  check_sampling_options(o.sampling.over({}));
  check(o.max_tokens >= 0, "max_tokens is ", o.max_tokens, "; at least 0 is right");
  check(o.messages.empty() || (o.message.empty() && o.system.empty()),
        "--messages holds the whole conversation; --message and --system are of no use besides");
  check(!o.show_prompt || one, "--show-prompt shows what becomes of --message or --messages; give one");
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::ChatOptions options;
  parse_arguments(arguments, options);
  check_options(options);
  lm::ChatTemplate chat_template = lm::ChatTemplate::read(options.model);
  const bool one = !options.message.empty() || !options.messages.empty();
  const std::string prompt = one ? prompt_of(options, chat_template) : "";
  if (options.show_prompt) {
    out << prompt;
    return kSuccess;
  }
  Chat chat(options, std::move(chat_template));
  if (one) return chat.answer_prompt(prompt, out) ? kSuccess : kInterrupted;
  LineReader lines;
  for (std::string line;;) {
    if (Progress().terminal()) std::cerr << "> " << std::flush;
    if (!lines.next(line)) break;
    if (!line.empty() && !chat.answer(line, out)) return kInterrupted;
  }
  return interrupted() ? kInterrupted : kSuccess;
}

void print(std::ostream& out) {
  lm::ChatOptions options;
  print_options(options, out);
}

}  // namespace

Command chat_command() {
  return {"chat", "a conversation with a pretrained model",
          "  hsattn chat --model models/smollm2-135m-instruct\n"
          "  hsattn chat --model models/smollm2-135m-instruct --message \"What is a prime number?\" --max-tokens 100\n"
          "  hsattn chat --model models/smollm2-135m-instruct --message Hello --show-prompt\n",
          run, print};
}

}  // namespace hsattn::cli
