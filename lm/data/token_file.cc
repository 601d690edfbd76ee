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

constexpr char kMagic[8] = {'H', 'S', 'A', 'T', 'T', 'O', 'K', '1'};
constexpr std::uint32_t kVersion = 1;

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
  // The mapping starts at a page and the header has 64 bytes, so the starts are aligned.
  starts_ = {reinterpret_cast<const std::uint64_t*>(memory_ + sizeof header_), header_.documents + 1};
  tokens_ = memory_ + sizeof header_ + 8 * (header_.documents + 1);
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

void TokenFile::check_sizes(std::uint64_t bytes) const {
  const auto fail = [&](auto... parts) { throw FileError(concat(path_, ": ", parts...)); };
  if (std::memcmp(header_.magic, kMagic, sizeof kMagic) != 0) fail("not a token file; `hsattn prepare` writes them");
  if (header_.version != kVersion) fail("version ", header_.version, "; this program reads version ", kVersion);
  if (header_.token_width != 1 && header_.token_width != 2)
    fail(header_.token_width, " bytes per token; 1 or 2 are right");
  const std::uint64_t rest = bytes - sizeof header_;
  // Compared by division, so that absurd counts cannot overflow.
  if (header_.documents >= rest / 8) fail("says ", header_.documents, " documents, but has only ", bytes, " bytes");
  const std::uint64_t token_bytes = rest - 8 * (header_.documents + 1);
  if (token_bytes % header_.token_width != 0 || header_.tokens != token_bytes / header_.token_width) {
    fail("says ", header_.tokens, " tokens of ", header_.token_width, " bytes, but has ", token_bytes,
         " bytes of tokens");
  }
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
  if (header_.token_width == 1) {
    for (Index i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = tokens_[begin + i];
  } else {
    for (Index i = 0; i < count; ++i) {
      const unsigned char* at = tokens_ + 2 * (begin + i);
      out[static_cast<std::size_t>(i)] = at[0] | at[1] << 8;
    }
  }
}

void write_byte_tokens(const std::string& path, std::span<const std::string_view> documents) {
  TokenFileHeader header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kVersion;
  header.token_width = 1;
  header.documents = documents.size();
  header.separators = 1;
  std::vector<std::uint64_t> starts(1, 0);
  for (const std::string_view text : documents) starts.push_back(starts.back() + text.size() + 1);
  header.tokens = starts.back();

  Fnv64 hash;
  AtomicFile file(path);
  const auto put = [&](const void* data, std::size_t bytes) {
    hash.add(data, bytes);
    file.write(data, static_cast<Index>(bytes));
  };
  file.write(&header, sizeof header);
  put(starts.data(), 8 * starts.size());
  for (const std::string_view text : documents) {
    put(text.data(), text.size());
    put("", 1);
  }
  header.hash = hash.value();
  file.write_at(0, &header, sizeof header);
  file.commit();
}

}  // namespace hsattn::lm
