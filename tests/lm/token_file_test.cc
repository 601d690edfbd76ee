#include "lm/data/token_file.h"

#include <gtest/gtest.h>

#include <cstring>

#include "lm/data/files.h"
#include "lm/data/token_writer.h"
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

// A file as version 1 had it: document starts before the tokens, no vocabulary.
template <class T>
std::string version_1_file(const std::vector<T>& tokens) {
  const std::uint64_t starts[] = {0, tokens.size()};
  TokenFileHeader header{};
  std::memcpy(header.magic, "HSATTOK1", 8);
  header.version = 1, header.token_width = sizeof(T), header.tokens = tokens.size(), header.documents = 1;
  std::string body(reinterpret_cast<const char*>(starts), sizeof starts);
  body.append(reinterpret_cast<const char*>(tokens.data()), sizeof(T) * tokens.size());
  Fnv64 hash;
  hash.add(body.data(), body.size());
  header.hash = hash.value();
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + body;
}

std::vector<std::int64_t> tokens_of(const TokenFile& file) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(file.tokens()));
  file.copy(0, tokens);
  return tokens;
}

TEST(TokenFile, ReadsVersion1) {
  const TemporaryFolder folder;
  const TokenFile bytes(folder.write("a.tokens", version_1_file<std::uint8_t>({1, 0, 255})));
  EXPECT_EQ(tokens_of(bytes), (std::vector<std::int64_t>{1, 0, 255}));
  EXPECT_EQ(bytes.vocabulary(), 256);
  const TokenFile wide(folder.write("b.tokens", version_1_file<std::uint16_t>({1, 256, 65535})));
  EXPECT_EQ(tokens_of(wide), (std::vector<std::int64_t>{1, 256, 65535}));
  EXPECT_EQ(wide.vocabulary(), 65536);
}

const std::vector<std::vector<Token>> kTokenDocuments = {{1, 2, 65535}, {}, {3}, {4, 5, 6, 7, 8, 9, 10}};

TEST(TokenFileWriter, WritesTokensAsWideAsTheVocabularyNeeds) {
  const TemporaryFolder folder;
  for (const Index vocabulary : {65536, 65537, 200000}) {
    const std::string path = folder.file("a.tokens");
    const TokenFormat format{vocabulary, /*tokenizer=*/77, /*separator=*/0};
    {
      TokenFileWriter writer(path, format);
      for (const auto& document : kTokenDocuments) writer.add(document);
      writer.commit();
    }
    const TokenFile file(path);
    EXPECT_EQ(tokens_of(file), (std::vector<std::int64_t>{1, 2, 65535, 0, 0, 3, 0, 4, 5, 6, 7, 8, 9, 10, 0}));
    EXPECT_EQ(file.vocabulary(), vocabulary);
    EXPECT_EQ(file.tokenizer(), 77u);
    EXPECT_EQ(format.width(), vocabulary == 65536 ? 2u : 4u);
    EXPECT_EQ(file.document_starts()[2], 5u);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.file("")), {}), 1);  // nothing is left behind
  }
}

TEST(TokenFileWriter, GoesOnFromWhatWasSyncedWithTheSameBits) {
  const TemporaryFolder folder;
  const TokenFormat format{300, 77, kNoToken};
  const auto write = [&](const std::string& path, std::size_t stop) {
    TokenFileWriter::State state;
    bool stopped = false;
    if (stop < kTokenDocuments.size()) {
      TokenFileWriter writer(path, format);
      for (std::size_t i = 0; i < stop; ++i) writer.add(kTokenDocuments[i]);
      state = writer.sync();
      writer.add(std::vector<Token>(1 << 20, 9));  // lost: larger than the buffer, so that some of it is on the disk
      writer.keep();
      stopped = true;
    }
    TokenFileWriter writer(path, format, stopped ? &state : nullptr);
    for (std::size_t i = stopped ? stop : 0; i < kTokenDocuments.size(); ++i) writer.add(kTokenDocuments[i]);
    writer.commit();
    return read_file(path);
  };
  const std::string whole = write(folder.file("whole"), kTokenDocuments.size());
  for (std::size_t stop = 0; stop < kTokenDocuments.size(); ++stop) {
    EXPECT_EQ(write(folder.file("resumed"), stop), whole) << stop;
  }
}

TEST(TokenFileWriter, RefusesToGoOnInAFileThatIsShorter) {
  const TemporaryFolder folder;
  const TokenFileWriter::State state{10, 1, 0};
  EXPECT_NE(message_of([&] { TokenFileWriter(folder.file("a"), TokenFormat(), &state); }).find("were written before"),
            std::string::npos);
}

TEST(TokenFile, RefusesATokenThatIsNotBelowTheVocabulary) {
  const TemporaryFolder folder;
  {
    TokenFileWriter writer(folder.file("a"), {300, 77, kNoToken});
    writer.add(std::vector<Token>{1, 300});
    writer.commit();
  }
  const TokenFile file(folder.file("a"));
  EXPECT_NE(message_of([&] { tokens_of(file); }).find("holds the token 300"), std::string::npos);
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
    {"longer", "bytes of tokens", [](std::string& f) { f += 'x'; }},
    {"wrong magic", "not a token file", [](std::string& f) { f[0] = 'X'; }},
    {"wrong version", "version 3", [](std::string& f) { put<std::uint32_t>(f, 8, 3); }},
    {"wrong width", "bytes per token", [](std::string& f) { put<std::uint32_t>(f, 12, 3); }},
    {"width zero", "bytes per token", [](std::string& f) { put<std::uint32_t>(f, 12, 0); }},
    {"absurd tokens", "tokens of", [](std::string& f) { put<std::uint64_t>(f, 16, ~0ull); }},
    {"absurd documents", "documents", [](std::string& f) { put<std::uint64_t>(f, 24, ~0ull); }},
    {"documents that overflow", "documents", [](std::string& f) { put<std::uint64_t>(f, 24, 1ull << 61); }},
    {"tokens that overflow", "tokens of", [](std::string& f) { put<std::uint64_t>(f, 16, 1ull << 63); }},
    {"no vocabulary", "a vocabulary of 0", [](std::string& f) { put<std::uint64_t>(f, 48, 0); }},
    {"absurd vocabulary", "a vocabulary of", [](std::string& f) { put<std::uint64_t>(f, 48, ~0ull); }},
    {"wide bytes", "damaged", [](std::string& f) { put<std::uint32_t>(f, 12, 2); }},
    {"a token changed", "damaged", [](std::string& f) { f[64] ^= 1; }},
    {"starts descend", "ascend", [](std::string& f) { put<std::uint64_t>(f, f.size() - 32, 1000); }},
    {"first start is not 0", "ascend", [](std::string& f) { put<std::uint64_t>(f, f.size() - 40, 1); }},
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
