#include "cli/streaming.h"

#include <iostream>

#include "cli/progress.h"
#include "lm/data/files.h"

namespace hsattn::cli {
namespace {

Index read_tokens(const lm::GenerateRequest& request, const lm::GenerateResult& result) {
  return static_cast<Index>(request.prompt.size()) - result.reused;
}

// Of tokens behind the first, which belongs to the reading of the prompt.
double tokens_per_s(const lm::GenerateResult& r) {
  const double seconds = r.seconds - r.first_token_s;
  return r.tokens.size() > 1 && seconds > 0 ? static_cast<double>(r.tokens.size() - 1) / seconds : 0;
}

}  // namespace

void stream_out(const std::string& text) {
  std::cout << text << std::flush;
  if (!std::cout) throw lm::FileError("cannot write the text to stdout");
}

nlohmann::ordered_json to_json(const lm::GenerateRequest& request, const lm::GenerateResult& r) {
  return {{"text", r.text},
          {"finish", r.finish},
          {"prompt_tokens", request.prompt.size()},
          {"reused_tokens", r.reused},
          {"tokens", r.tokens},
          {"first_token_s", r.first_token_s},
          {"tokens_per_s", tokens_per_s(r)},
          {"seconds", r.seconds}};
}

std::string describe_speed(const lm::GenerateRequest& request, const lm::GenerateResult& r) {
  return concat(read_tokens(request, r), " tokens read, the first one written after ", fixed(r.first_token_s, 2),
                " s; ", r.tokens.size(), " written, ", fixed(tokens_per_s(r), 1), " tokens/s; ended by ", r.finish);
}

}  // namespace hsattn::cli
