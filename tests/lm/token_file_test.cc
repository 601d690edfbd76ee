#include "lm/data/token_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "lm/data/files.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using test::message_of;
using test::TemporaryFolder;

const std::vector<std::string_view> kDocuments = {"first", "", std::string_view("zero\0inside", 11), "\xff\xfe last"};

std::string bytes_of(const TokenFile& file) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(file.tokens()));
  file.copy(0, tokens);
  return {tokens.begin(), tokens.end()};
}

TEST(TokenFile, ReturnsTheBytesAndTheDocumentsThatWereWritten) {
  const TemporaryFolder folder;
  write_byte_tokens(folder.file("a.tokens"), kDocuments);
  const TokenFile file(folder.file("a.tokens"));
  std::string expected;
  std::vector<std::uint64_t> starts = {0};
  for (const auto text : kDocuments) {
    expected.append(text).push_back('\0');
    starts.push_back(expected.size());
  }
  EXPECT_EQ(bytes_of(file), expected);
  EXPECT_EQ(std::vector<std::uint64_t>(file.document_starts().begin(), file.document_starts().end()), starts);
  EXPECT_FALSE(std::filesystem::exists(folder.file("a.tokens.part")));
}

TEST(TokenFile, HoldsNoDocumentsAtAll) {
  const TemporaryFolder folder;
  write_byte_tokens(folder.file("a.tokens"), {});
  EXPECT_EQ(TokenFile(folder.file("a.tokens")).tokens(), 0);
}

TEST(TokenFile, ReadsTokensOfTwoBytes) {
  const TemporaryFolder folder;
  const std::uint16_t tokens[] = {1, 256, 65535};
  const std::uint64_t starts[] = {0, 3};
  TokenFileHeader header{};
  std::memcpy(header.magic, "HSATTOK1", 8);
  header.version = 1, header.token_width = 2, header.tokens = 3, header.documents = 1;
  std::string body(reinterpret_cast<const char*>(starts), sizeof starts);
  body.append(reinterpret_cast<const char*>(tokens), sizeof tokens);
  Fnv64 hash;
  hash.add(body.data(), body.size());
  header.hash = hash.value();
  const TokenFile file(
      folder.write("a.tokens", std::string(reinterpret_cast<const char*>(&header), sizeof header) + body));
  std::vector<std::int64_t> read(3);
  file.copy(0, read);
  EXPECT_EQ(read, (std::vector<std::int64_t>{1, 256, 65535}));
}

TEST(TokenFile, RefusesTokensPastTheEnd) {
  const TemporaryFolder folder;
  write_byte_tokens(folder.file("a.tokens"), kDocuments);
  const TokenFile file(folder.file("a.tokens"));
  std::vector<std::int64_t> out(3);
  EXPECT_NE(message_of([&] { file.copy(file.tokens() - 2, out); }), "");
  EXPECT_NE(message_of([&] { file.copy(-1, out); }), "");
}

// Every way to damage a file, and what the message must say.
struct Damage {
  const char* name;
  const char* says;
  void (*apply)(std::string& file);
};

template <class T>
void put(std::string& file, std::size_t offset, T value) {
  std::memcpy(file.data() + offset, &value, sizeof value);
}

const Damage kDamages[] = {
    {"empty", "at least 64", [](std::string& f) { f.clear(); }},
    {"cut in the header", "at least 64", [](std::string& f) { f.resize(63); }},
    {"cut in the tokens", "bytes of tokens", [](std::string& f) { f.pop_back(); }},
    {"longer", "bytes of tokens", [](std::string& f) { f += "x"; }},
    {"wrong magic", "not a token file", [](std::string& f) { f[0] = 'X'; }},
    {"wrong version", "version 2", [](std::string& f) { put<std::uint32_t>(f, 8, 2); }},
    {"wrong width", "bytes per token", [](std::string& f) { put<std::uint32_t>(f, 12, 4); }},
    {"width zero", "bytes per token", [](std::string& f) { put<std::uint32_t>(f, 12, 0); }},
    {"absurd tokens", "tokens of", [](std::string& f) { put<std::uint64_t>(f, 16, ~0ull); }},
    {"absurd documents", "documents", [](std::string& f) { put<std::uint64_t>(f, 24, ~0ull); }},
    {"documents that overflow", "documents", [](std::string& f) { put<std::uint64_t>(f, 24, 1ull << 61); }},
    {"a token changed", "damaged", [](std::string& f) { f.back() ^= 1; }},
    {"starts descend", "ascend", [](std::string& f) { put<std::uint64_t>(f, 72, 1000); }},
    {"first start is not 0", "ascend", [](std::string& f) { put<std::uint64_t>(f, 64, 1); }},
};

TEST(TokenFile, RefusesEveryDamageByName) {
  const TemporaryFolder folder;
  write_byte_tokens(folder.file("good.tokens"), kDocuments);
  for (const Damage& damage : kDamages) {
    SCOPED_TRACE(damage.name);
    std::string file = read_file(folder.file("good.tokens"));
    damage.apply(file);
    const std::string path = folder.write("bad.tokens", file);
    const std::string message = message_of([&] { TokenFile{path}; });
    EXPECT_NE(message.find(damage.says), std::string::npos) << message;
    EXPECT_NE(message.find(path), std::string::npos) << message;
  }
}

TEST(TokenFile, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  EXPECT_NE(message_of([&] { TokenFile{folder.file("absent")}; }).find("No such file"), std::string::npos);
  EXPECT_NE(message_of([&] { TokenFile{folder.file("")}; }).find("not a regular file"), std::string::npos);
}

TEST(AtomicFile, LeavesTheOldFileWhenWritingFails) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a", "old");
  {
    AtomicFile file(path);
    file.write("new, but never committed");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));
  write_file(path, "new");
  EXPECT_EQ(read_file(path), "new");
}

TEST(AtomicFile, SaysThatTheDiskIsFull) {
  const std::string message = message_of([] { write_file("/dev/full", "text"); });
  EXPECT_NE(message.find("/dev/full"), std::string::npos) << message;
  EXPECT_NE(message.find("No space left"), std::string::npos) << message;
}

}  // namespace
}  // namespace hsattn::lm
