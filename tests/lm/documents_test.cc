#include "lm/data/documents.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "lm/data/files.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using test::message_of;
using test::TemporaryFolder;

std::string write_gzip(const TemporaryFolder& folder, const std::string& name, const std::string& text) {
  const std::string path = folder.write(name, "");
  const gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  return path;
}

std::vector<std::string> texts(const Documents& documents) {
  std::vector<std::string> all;
  for (const Document& document : documents.items) all.push_back(document.text);
  return all;
}

TEST(Documents, OfEveryKindInAFolder) {
  const TemporaryFolder folder;
  folder.write("b.txt", "plain");
  folder.write("a/z.txt", "deep");
  folder.write("c.jsonl", "{\"text\": \"one\"}\n\n{\"text\": \"tw\\u00f6\", \"more\": 1}\n");
  folder.write("d.bin", std::string("\x7f"
                                    "ELF\0\0",
                                    6));
  folder.write(".hidden/e.txt", "hidden");
  folder.write(".f.txt", "hidden");
  folder.write("g.txt", "");
  write_gzip(folder, "h.txt.gz", std::string(600000, 'x') + "end");
  write_gzip(folder, "i.jsonl.gz", "{\"text\": \"three\"}");
  const Documents documents = read_documents({folder.file("")}, "text");
  EXPECT_EQ(texts(documents), (std::vector<std::string>{"deep", "plain", "one", "tw\xc3\xb6",
                                                        std::string(600000, 'x') + "end", "three"}));
  ASSERT_EQ(documents.skipped.size(), 1u);
  EXPECT_TRUE(documents.skipped[0].ends_with("d.bin"));
}

TEST(Documents, TakesAFileThatIsNamedAsItIs) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a.bin", std::string("a\0b", 3));
  EXPECT_EQ(texts(read_documents({path}, "text")), (std::vector<std::string>{std::string("a\0b", 3)}));
}

TEST(Documents, RefusesDamageByName) {
  const TemporaryFolder folder;
  const std::string good = read_file(write_gzip(folder, "good.gz", std::string(100000, 'a') + "b"));
  const std::string cut = folder.write("cut.gz", good.substr(0, good.size() - 9));
  const std::string plain = folder.write("plain.gz", "no gzip at all");
  const std::string lines = folder.write("x.jsonl", "{\"text\": \"a\"}\n{\"txt\": 1}\n");
  const struct {
    std::string path, says;
  } cases[] = {{folder.file("absent.txt"), "No such file"},
               {folder.file("absent.gz"), "No such file"},
               {cut, "cannot decompress"},
               {plain, "no gzip file"},
               {lines, "line 2"},
               {folder.write("empty/a.txt", "").substr(0, folder.file("empty").size()), "no text"}};
  for (const auto& c : cases) {
    const std::string message = message_of([&] { read_documents({c.path}, "text"); });
    EXPECT_NE(message.find(c.says), std::string::npos) << c.path << ": " << message;
    EXPECT_NE(message.find(c.path), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace hsattn::lm
