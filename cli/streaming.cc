#include "cli/streaming.h"

#include <poll.h>
#include <unistd.h>

#include <iostream>

#include "cli/commands.h"
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

bool LineReader::next(std::string& line) {
  while (!ended_ && read_.find('\n') == std::string::npos) {
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    if (interrupted() || ::poll(&input, 1, -1) < 0) return false;
    char bytes[4096];
    const ssize_t count = ::read(STDIN_FILENO, bytes, sizeof bytes);
    if (count <= 0) ended_ = true;
    if (count > 0) read_.append(bytes, static_cast<std::size_t>(count));
  }
  if (read_.empty()) return false;
  const std::size_t end = std::min(read_.find('\n'), read_.size());
  line = read_.substr(0, end);
  read_.erase(0, end + 1);
  return true;
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
  if (r.tokens.empty()) {
    return concat("nothing written after ", fixed(r.seconds, 2), " s with a prompt of ", request.prompt.size(),
                  " tokens; ended by ", r.finish);
  }
  return concat(read_tokens(request, r), " tokens read, the first one written after ", fixed(r.first_token_s, 2),
                " s; ", r.tokens.size(), " written, ", fixed(tokens_per_s(r), 1), " tokens/s; ended by ", r.finish);
}

}  // namespace hsattn::cli
