// Token files written document by document, with a point on the disk from which writing can go on.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hsattn/base/types.h"
#include "lm/data/files.h"
#include "lm/tokenizer/byte_pairs.h"

namespace hsattn::lm {

/// What tokens of a file are.
struct TokenFormat {
  Index vocabulary = 256;
  std::uint64_t tokenizer = 0;  ///< fingerprint; 0: bytes
  Token separator = 0;          ///< ends each document; kNoToken: nothing does
  /// Bytes per token: 1 for bytes, else 2 or 4, as the vocabulary needs.
  std::uint32_t width() const { return tokenizer == 0 ? 1 : vocabulary <= 65536 ? 2 : 4; }
};

/// Writes `path`.part and `path`.starts.part; commit() makes `path` of them.
class TokenFileWriter {
 public:
  /// What is safely on the disk.
  struct State {
    std::uint64_t tokens = 0, documents = 0, hash = Fnv64().value();
  };

  /// Starts anew, or goes on behind `state` in files of an earlier writer. Throws FileError if they are shorter.
  TokenFileWriter(const std::string& path, const TokenFormat& format, const State* state = nullptr);
  /// Removes what is unfinished, unless it was kept.
  ~TokenFileWriter();
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  /// Appends a document and, if the format has one, the separator.
  void add(std::span<const Token> tokens);
  /// Everything added so far goes to the disk.
  State sync();
  /// Unfinished files stay when this object goes: another writer can go on from the last sync().
  void keep() { keep_ = true; }
  /// The whole file under its final name.
  void commit();

  const State& written() const { return state_; }

 private:
  void put(std::span<const Token> tokens);

  std::string path_;
  TokenFormat format_;
  State state_;
  Fnv64 hash_;
  std::unique_ptr<AppendFile> tokens_, starts_;
  bool keep_ = false;
};

/// Writes the bytes of each document as tokens, a zero byte after each. Whole or absent.
void write_byte_tokens(const std::string& path, std::span<const std::string_view> documents);

}  // namespace hsattn::lm
