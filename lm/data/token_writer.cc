#include "lm/data/token_writer.h"

#include <cstring>
#include <filesystem>

#include "hsattn/base/error.h"
#include "lm/data/token_file.h"

namespace hsattn::lm {
namespace {

std::string part_of(const std::string& path) { return path + ".part"; }
std::string starts_of(const std::string& path) { return path + ".starts.part"; }

}  // namespace

TokenFileWriter::TokenFileWriter(const std::string& path, const TokenFormat& format, const State* state)
    : path_(path), format_(format), state_(state != nullptr ? *state : State()), hash_(state_.hash) {
  const std::uint64_t bytes = sizeof(TokenFileHeader) + state_.tokens * format_.width();
  tokens_ = std::make_unique<AppendFile>(part_of(path), state != nullptr ? bytes : 0);
  starts_ = std::make_unique<AppendFile>(starts_of(path), 8 * state_.documents);
  if (state == nullptr) tokens_->write(std::string(sizeof(TokenFileHeader), '\0'));
}

TokenFileWriter::~TokenFileWriter() {
  if (keep_) return;
  std::error_code ignored;
  std::filesystem::remove(part_of(path_), ignored);
  std::filesystem::remove(starts_of(path_), ignored);
}

void TokenFileWriter::put(std::span<const Token> tokens) {
  std::string bytes(tokens.size() * format_.width(), '\0');
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::memcpy(bytes.data() + i * format_.width(), &tokens[i], format_.width());  // little-endian
  }
  hash_.add(bytes.data(), bytes.size());
  tokens_->write(bytes);
  state_.tokens += tokens.size();
}

void TokenFileWriter::add(std::span<const Token> tokens) {
  put(tokens);
  if (format_.separator != kNoToken) put({&format_.separator, 1});
  ++state_.documents;
  starts_->write({reinterpret_cast<const char*>(&state_.tokens), 8});
}

TokenFileWriter::State TokenFileWriter::sync() {
  tokens_->sync();
  starts_->sync();
  state_.hash = hash_.value();
  return state_;
}

void TokenFileWriter::commit() {
  starts_->flush();
  const auto append = [&](std::string_view bytes) {
    hash_.add(bytes.data(), bytes.size());
    tokens_->write(bytes);
  };
  append(std::string((8 - state_.tokens * format_.width() % 8) % 8 + 8, '\0'));  // up to 8 bytes, and the first start
  starts_->read_all(append);

  TokenFileHeader header{};
  std::memcpy(header.magic, kTokenFileMagic, sizeof header.magic);
  header.version = kTokenFileVersion;
  header.token_width = format_.width();
  header.tokens = state_.tokens;
  header.documents = state_.documents;
  header.hash = hash_.value();
  header.separators = format_.separator != kNoToken ? 1 : 0;
  header.vocabulary = static_cast<std::uint64_t>(format_.vocabulary);
  header.tokenizer = format_.tokenizer;
  tokens_->flush();
  tokens_->overwrite(0, {reinterpret_cast<const char*>(&header), sizeof header});
  tokens_->sync();
  tokens_->rename(path_);
  std::error_code ignored;
  std::filesystem::remove(starts_of(path_), ignored);
}

void write_byte_tokens(const std::string& path, std::span<const std::string_view> documents) {
  TokenFileWriter writer(path, TokenFormat());
  std::vector<Token> tokens;
  for (const std::string_view text : documents) {
    tokens.assign(reinterpret_cast<const unsigned char*>(text.data()),
                  reinterpret_cast<const unsigned char*>(text.data()) + text.size());
    writer.add(tokens);
  }
  writer.commit();
}

}  // namespace hsattn::lm
