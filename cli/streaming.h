// Text that a model writes: shown as it comes, its speed at the end.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "lm/pretrained/runtime.h"

namespace hsattn::cli {

/// Writes to stdout at once. Throws FileError where that is not possible.
void stream_out(const std::string& text);

/// Lines of the input, waiting for which a signal ends; std::getline would go on.
class LineReader {
 public:
  /// False at the end of the input, or once the program is interrupted.
  bool next(std::string& line);

 private:
  std::string read_;
  bool ended_ = false;
};

/// Tokens, text, why it ended, times.
nlohmann::ordered_json to_json(const lm::GenerateRequest& request, const lm::GenerateResult& result);

/// "1234 tokens read in 0.52 s, 56 written, 31.2 tokens/s"
std::string describe_speed(const lm::GenerateRequest& request, const lm::GenerateResult& result);

}  // namespace hsattn::cli
