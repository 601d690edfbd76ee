// The token file: tokens of many documents end to end, memory-mapped, with a header that can be checked.
//
//   offset  size
//   0       8    magic "HSATTOK1"
//   8       4    version, 2
//   12      4    bytes per token, 1, 2 or 4
//   16      8    tokens
//   24      8    documents
//   32      8    FNV-1a of everything after the header
//   40      8    tokens that separate documents: 1 if one ends each document (0 for bytes, else the tokenizer's), else
//   0 48      8    vocabulary: every token is less 56      8    fingerprint of the tokenizer; 0: tokens are bytes 64
//   tokens, then zeros up to a multiple of 8 bytes
//   ...          document starts: documents + 1 numbers of 8 bytes, in tokens; the last one is the token count
// Numbers are little-endian. Version 1 has zeros from 48 to 64 and document starts before the tokens; it is still read.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "hsattn/base/types.h"

namespace hsattn::lm {

/// The same bytes as on disk.
struct TokenFileHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t token_width;
  std::uint64_t tokens;
  std::uint64_t documents;
  std::uint64_t hash;
  std::uint64_t separators;
  std::uint64_t vocabulary;
  std::uint64_t tokenizer;
};
static_assert(sizeof(TokenFileHeader) == 64);

constexpr char kTokenFileMagic[8] = {'H', 'S', 'A', 'T', 'T', 'O', 'K', '1'};
constexpr std::uint32_t kTokenFileVersion = 2;

/// A token file mapped into memory, read-only.
class TokenFile {
 public:
  /// Checks magic, version, sizes and document starts against the size of the file before reading tokens, and the hash
  /// if `verify`. Throws FileError.
  explicit TokenFile(const std::string& path, bool verify = true);
  ~TokenFile();
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  const std::string& path() const { return path_; }
  Index tokens() const { return static_cast<Index>(header_.tokens); }
  Index documents() const { return static_cast<Index>(header_.documents); }
  Index vocabulary() const { return static_cast<Index>(header_.vocabulary); }
  /// Fingerprint of the tokenizer that made the tokens; 0: they are bytes.
  std::uint64_t tokenizer() const { return header_.tokenizer; }
  /// True if a token of its own ends each document.
  bool separated() const { return header_.separators == 1; }
  std::uint64_t hash() const { return header_.hash; }
  /// [documents + 1], ascending; document i owns tokens [starts[i], starts[i + 1]).
  std::span<const std::uint64_t> document_starts() const { return starts_; }

  /// Copies tokens [begin, begin + out.size()) widened to 64 bits. Throws InvalidArgument past the end, FileError for a
  /// token that is not below the vocabulary.
  void copy(Index begin, std::span<std::int64_t> out) const;

 private:
  void check_sizes(std::uint64_t bytes);
  void check_starts() const;
  void check_hash() const;

  std::string path_;
  TokenFileHeader header_{};
  std::uint64_t tokens_at_ = 0, starts_at_ = 0;  // offsets
  const unsigned char* memory_ = nullptr;
  std::size_t mapped_ = 0;
  std::span<const std::uint64_t> starts_;
};

}  // namespace hsattn::lm
