#include "lm/data/token_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "hsattn/base/error.h"
#include "lm/data/files.h"

namespace hsattn::lm {
namespace {

constexpr std::uint64_t kLargestVocabulary = 1ull << 32;

std::uint64_t rounded_up(std::uint64_t bytes) { return (bytes + 7) / 8 * 8; }

struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

TokenFile::TokenFile(const std::string& path, bool verify) : path_(path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat info{};
  if (file.value < 0 || ::fstat(file.value, &info) != 0) {
    throw FileError(concat("cannot read ", path, ": ", std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) throw FileError(concat("cannot read ", path, ": not a regular file"));
  const ssize_t read = ::pread(file.value, &header_, sizeof header_, 0);
  if (read != static_cast<ssize_t>(sizeof header_)) {
    throw FileError(concat(path, ": ", info.st_size, " bytes; a token file has at least ", sizeof header_));
  }
  check_sizes(static_cast<std::uint64_t>(info.st_size));

  mapped_ = static_cast<std::size_t>(info.st_size);
  void* memory = ::mmap(nullptr, mapped_, PROT_READ, MAP_PRIVATE, file.value, 0);
  if (memory == MAP_FAILED) throw FileError(concat("cannot map ", path, ": ", std::strerror(errno)));
  memory_ = static_cast<const unsigned char*>(memory);
  // The mapping starts at a page and offsets are multiples of 8, so the starts are aligned.
  starts_ = {reinterpret_cast<const std::uint64_t*>(memory_ + starts_at_), header_.documents + 1};
  try {
    check_starts();
    if (verify) check_hash();
  } catch (...) {
    ::munmap(memory, mapped_);
    throw;
  }
}

TokenFile::~TokenFile() {
  if (memory_ != nullptr) ::munmap(const_cast<unsigned char*>(memory_), mapped_);
}

void TokenFile::check_sizes(std::uint64_t bytes) {
  const auto fail = [&](auto... parts) { throw FileError(concat(path_, ": ", parts...)); };
  TokenFileHeader& h = header_;
  if (std::memcmp(h.magic, kTokenFileMagic, sizeof h.magic) != 0)
    fail("not a token file; `hsattn prepare` writes them");
  if (h.version != 1 && h.version != kTokenFileVersion) {
    fail("version ", h.version, "; this program reads versions 1 and ", kTokenFileVersion);
  }
  if (h.token_width != 1 && h.token_width != 2 && h.token_width != 4)
    fail(h.token_width, " bytes per token; 1, 2 or 4 are right");
  if (h.version == 1) h.vocabulary = h.token_width == 1 ? 256 : 65536, h.tokenizer = 0;
  if (h.vocabulary < 1 || h.vocabulary > kLargestVocabulary || (h.tokenizer == 0 && h.version > 1 && h.token_width > 1))
    fail("a vocabulary of ", h.vocabulary, " in ", h.token_width, " bytes; the file is damaged");
  const std::uint64_t rest = bytes - sizeof h;
  // Compared by division, so that absurd counts cannot overflow.
  if (h.documents >= rest / 8) fail("says ", h.documents, " documents, but has only ", bytes, " bytes");
  const std::uint64_t starts_bytes = 8 * (h.documents + 1), token_bytes = rest - starts_bytes;
  const bool fits = h.tokens <= token_bytes / h.token_width;
  const std::uint64_t expected = fits ? h.tokens * h.token_width : 0;
  if (!fits || token_bytes != (h.version == 1 ? expected : rounded_up(expected))) {
    fail("says ", h.tokens, " tokens of ", h.token_width, " bytes, but has ", token_bytes, " bytes of tokens");
  }
  tokens_at_ = sizeof h + (h.version == 1 ? starts_bytes : 0);
  starts_at_ = sizeof h + (h.version == 1 ? 0 : token_bytes);
}

void TokenFile::check_starts() const {
  bool good = starts_.front() == 0 && starts_.back() == header_.tokens;
  for (std::size_t i = 1; good && i < starts_.size(); ++i) good = starts_[i - 1] <= starts_[i];
  if (!good) throw FileError(path_ + ": document starts do not ascend from 0 to the token count; the file is damaged");
}

void TokenFile::check_hash() const {
  Fnv64 hash;
  hash.add(memory_ + sizeof header_, mapped_ - sizeof header_);
  if (hash.value() != header_.hash) {
    throw FileError(concat(path_, ": hash ", hex64(hash.value()), ", the header says ", hex64(header_.hash),
                           "; the file is damaged"));
  }
}

void TokenFile::copy(Index begin, std::span<std::int64_t> out) const {
  const Index count = static_cast<Index>(out.size());
  check(begin >= 0 && begin <= tokens() - count, "TokenFile::copy: tokens [", begin, ", ", begin + count, ") of ",
        path_, ", which has ", tokens());
  const std::size_t width = header_.token_width;
  const unsigned char* at = memory_ + tokens_at_ + width * static_cast<std::size_t>(begin);
  for (std::int64_t& token : out) {
    std::uint32_t value = 0;
    std::memcpy(&value, at, width);  // little-endian
    at += width;
    token = value;
    if (value >= header_.vocabulary) {
      throw FileError(concat(path_, ": holds the token ", value, "; its vocabulary is ", header_.vocabulary));
    }
  }
}

}  // namespace hsattn::lm
