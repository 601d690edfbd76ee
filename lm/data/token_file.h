// The token file: tokens of many documents end to end, memory-mapped, with a header that can be checked.
//
//   offset  size
//   0       8    magic "HSATTOK1"
//   8       4    version, 1
//   12      4    bytes per token, 1 or 2
//   16      8    tokens
//   24      8    documents
//   32      8    FNV-1a of everything after the header
//   40      8    tokens that separate documents: 1 if a token 0 ends each document, else 0
//   48      16   zero
//   64           document starts: documents + 1 numbers of 8 bytes, in tokens; the last one is the token count
//   ...          tokens
// Numbers are little-endian.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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
  std::uint64_t reserved[2];
};
static_assert(sizeof(TokenFileHeader) == 64);

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
  std::uint64_t hash() const { return header_.hash; }
  /// [documents + 1], ascending; document i owns tokens [starts[i], starts[i + 1]).
  std::span<const std::uint64_t> document_starts() const { return starts_; }

  /// Copies tokens [begin, begin + out.size()) widened to 64 bits. Throws InvalidArgument past the end.
  void copy(Index begin, std::span<std::int64_t> out) const;

 private:
  void check_sizes(std::uint64_t bytes) const;
  void check_starts() const;
  void check_hash() const;

  std::string path_;
  TokenFileHeader header_{};
  const unsigned char* memory_ = nullptr;
  std::size_t mapped_ = 0;
  std::span<const std::uint64_t> starts_;
  const unsigned char* tokens_ = nullptr;
};

/// Writes the bytes of each document as tokens of width 1, a zero byte after each. Whole or absent.
void write_byte_tokens(const std::string& path, std::span<const std::string_view> documents);

}  // namespace hsattn::lm
