#include "lm/model/data_fit.h"

#include "lm/data/files.h"
#include "lm/data/text_encoder.h"

namespace hsattn::lm {
namespace {

std::string in_words(const std::string& tokenizer) { return tokenizer.empty() ? "bytes" : "tokenizer " + tokenizer; }

}  // namespace

void fit_to_data(ModelConfig& config, const TokenFile& data) {
  if (config.vocabulary == 0) config.vocabulary = data.vocabulary();
  if (config.tokenizer.empty()) config.tokenizer = tokenizer_name(data.tokenizer());
  check_fits(config, data);
}

void check_fits(const ModelConfig& config, const TokenFile& data) {
  const std::string made_with = tokenizer_name(data.tokenizer());
  if (made_with != config.tokenizer) {
    throw FileError(concat(data.path(), " was made with ", in_words(made_with), ", the model with ",
                           in_words(config.tokenizer), "; the same is right"));
  }
  if (data.vocabulary() > config.vocabulary) {
    throw FileError(concat(data.path(), " has a vocabulary of ", data.vocabulary(), ", the model knows ",
                           config.vocabulary, "; at least as many are right"));
  }
}

}  // namespace hsattn::lm
