#include "lm/data/prepare.h"

#include <gtest/gtest.h>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/data/token_file.h"
#include "tests/lm/temporary_folder.h"

namespace hsattn::lm {
namespace {

using test::TemporaryFolder;

std::string bytes_of(const std::string& path) {
  const TokenFile file(path);
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(file.tokens()));
  file.copy(0, tokens);
  return {tokens.begin(), tokens.end()};
}

PrepareOptions options_for(const TemporaryFolder& folder, const std::string& out) {
  PrepareOptions options;
  options.input = {folder.file("text")};
  options.out = folder.file(out);
  return options;
}

TEST(Prepare, HoldsOutTheTailOfFewDocuments) {
  const TemporaryFolder folder;
  folder.write("text/a.txt", std::string(95, 'a') + std::string(5, 'b'));
  const PrepareResult result = prepare(options_for(folder, "out"));
  EXPECT_EQ(result.split, "tail");
  EXPECT_EQ(bytes_of(folder.file("out/train.tokens")), std::string(95, 'a') + '\0');
  EXPECT_EQ(bytes_of(folder.file("out/heldout.tokens")), std::string(5, 'b') + '\0');
  EXPECT_NE(read_file(folder.file("out/data.json")).find("\"tokens\": 96"), std::string::npos);
}

TEST(Prepare, SplitsManyDocumentsWholeAndAlwaysTheSameWay) {
  const TemporaryFolder folder;
  for (int i = 0; i < 40; ++i)
    folder.write("text/" + std::to_string(i) + ".txt", "document " + std::to_string(i) + "\n");
  PrepareOptions options = options_for(folder, "one");
  options.fraction = 0.25;
  const PrepareResult one = prepare(options);
  options.out = folder.file("two");
  const PrepareResult two = prepare(options);
  EXPECT_EQ(one.split, "document");
  EXPECT_EQ(one.train_documents + one.held_out_documents, 40);
  EXPECT_NEAR(static_cast<double>(one.held_out_documents), 10, 1);
  EXPECT_EQ(one.train_hash, two.train_hash);
  EXPECT_EQ(one.held_out_hash, two.held_out_hash);
  options.seed = 2;
  EXPECT_NE(prepare(options).train_hash, one.train_hash);
}

TEST(Prepare, TakesHeldOutFilesAsGiven) {
  const TemporaryFolder folder;
  folder.write("text/a.txt", "train");
  PrepareOptions options = options_for(folder, "out");
  options.held_out = {folder.write("other.txt", "test")};
  EXPECT_EQ(prepare(options).split, "given");
  EXPECT_EQ(bytes_of(folder.file("out/train.tokens")), std::string("train\0", 6));
  EXPECT_EQ(bytes_of(folder.file("out/heldout.tokens")), std::string("test\0", 5));
}

TEST(Prepare, CutsTailsBetweenCharacters) {
  const TemporaryFolder folder;
  folder.write("text/a.txt", "aaaaaa\u20acb");  // 10 bytes; a fifth would begin inside the sign
  PrepareOptions options = options_for(folder, "out");
  options.fraction = 0.2;
  prepare(options);
  EXPECT_EQ(bytes_of(folder.file("out/heldout.tokens")), std::string("b\0", 2));
}

TEST(Prepare, RefusesOptionsThatDoNotFit) {
  const TemporaryFolder folder;
  folder.write("text/a.txt", "text");
  PrepareOptions options = options_for(folder, "out");
  options.fraction = 0.7;
  EXPECT_THROW(prepare(options), InvalidArgument);
  options.fraction = 0.1;
  options.split = "half";
  EXPECT_THROW(prepare(options), InvalidArgument);
}

}  // namespace
}  // namespace hsattn::lm
