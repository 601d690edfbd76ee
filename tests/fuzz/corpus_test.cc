// Everything that the fuzzer kept, and 200 mutations of each kind of file, through the entry points that it fuzzes.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "entry_points.h"

namespace hsattn::lm::fuzz {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> corpus_of(const EntryPoint& entry) {
  std::vector<fs::path> paths;
  for (const auto& file : fs::directory_iterator(fs::path(HSATTN_FUZZ_CORPUS) / entry.name))
    paths.push_back(file.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> contents;
  for (const fs::path& path : paths) {
    std::ifstream file(path, std::ios::binary);
    contents.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return contents;
}

// Bytes changed, taken out, doubled, or the end cut off.
std::string mutated(std::string bytes, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random() % n); };
  for (std::size_t change = 0; change < 1 + below(4) && !bytes.empty(); ++change) {
    const std::size_t at = below(bytes.size()), count = 1 + below(std::min<std::size_t>(8, bytes.size() - at));
    switch (below(4)) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes.erase(at, count);
        break;
      case 2:
        bytes.insert(at, bytes.substr(at, count));
        break;
      default:
        bytes.resize(at);
    }
  }
  return bytes;
}

class Corpus : public testing::TestWithParam<EntryPoint> {};

TEST_P(Corpus, IsReadOrRefusedInOneLine) {
  bool some_read = false, some_refused = false;
  for (const std::string& bytes : corpus_of(GetParam())) {
    (GetParam().read(bytes).empty() ? some_read : some_refused) = true;
  }
  EXPECT_TRUE(some_read && some_refused) << "a corpus holds both kinds";
}

TEST_P(Corpus, MutationsAreReadOrRefusedInOneLine) {
  std::mt19937_64 random(7);
  int refused = 0;
  const std::vector<std::string> seeds = corpus_of(GetParam());
  for (int i = 0; i < 200; ++i) {
    const std::string bytes = mutated(seeds[random() % seeds.size()], random);
    refused += !GetParam().read(bytes).empty();
  }
  EXPECT_GT(refused, 50);
}

INSTANTIATE_TEST_SUITE_P(All, Corpus, testing::ValuesIn(kEntryPoints),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace hsattn::lm::fuzz
