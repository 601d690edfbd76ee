// What a cache refuses, and files that are not what save() wrote.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>

#include "hsattn/base/files.h"
#include "support/cached.h"
#include "support/pooling.h"

namespace hsattn {
namespace {

using testing::Random;
using testing::Tensor;
using testing::uniform;

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

CacheOptions small_options() { return {.kv_heads = 2, .dim = 16, .dtype = DType::kFloat32, .plan = {}, .page = 64}; }

// 3 sequences of 10 tokens.
KeyValueCache small_cache(const CacheOptions& options = small_options()) {
  KeyValueCache cache(options, 3);
  const auto k = testing::normal_tensor<float>(3, 2, 10, 16, 1), v = testing::normal_tensor<float>(3, 2, 10, 16, 2);
  cache.append(k.view(), v.view());
  return cache;
}

std::string refused_options(const std::function<void(CacheOptions&)>& change, Index sequences = 1) {
  CacheOptions o = small_options();
  change(o);
  return message_of([&] { KeyValueCache cache(o, sequences); });
}

TEST(CacheChecks, OptionsSayWhatIsRight) {
  const std::pair<std::string, std::string> cases[] = {
      {refused_options([](CacheOptions& o) { o.kv_heads = 0; }), "cache: kv_heads is 0; it must be at least 1"},
      {refused_options([](CacheOptions& o) { o.dim = 300; }), "cache: dim is 300; it must be from 8 to 256"},
      {refused_options([](CacheOptions& o) { o.page = 96; }),
       "cache: page is 96; it must be a power of two from 64 to 65536"},
      {refused_options([](CacheOptions& o) { o.dtype = DType::kFloat64; }),
       "cache: dtype is float64; it must be float32, bfloat16 or float16 (attention_forward takes float64, with whole "
       "sequences)"},
      {refused_options([](CacheOptions& o) { o.plan.causal = false; }),
       "cache: the plan is bidirectional; a cache must be causal, as what it holds grows at one end"},
      {refused_options([](CacheOptions& o) { o.plan.hsa.block = 6; }),
       "options: block is 6; it must be a power of two from 1 to 64"},
      {refused_options([](CacheOptions&) {}, -1), "cache: sequences is -1; it must not be negative"},
  };
  for (const auto& [found, right] : cases) EXPECT_EQ(found, right);
}

std::string refused_tokens(Index batch, Index heads, Index tokens, Index dim) {
  KeyValueCache cache = small_cache();
  const Tensor<float> k(batch, heads, tokens, dim);
  return message_of([&] { cache.append(k.view(), k.view()); });
}

TEST(CacheChecks, TokensMustFit) {
  EXPECT_EQ(refused_tokens(3, 2, 5, 16), "no error");
  EXPECT_EQ(refused_tokens(2, 2, 5, 16),
            "append: k has shape [2, 2, 5, 16], the cache has [3, 2, 5, 16]; they must be equal");
  EXPECT_EQ(refused_tokens(3, 1, 5, 16),
            "append: k has shape [3, 1, 5, 16], the cache has [3, 2, 5, 16]; they must be equal");
  KeyValueCache cache = small_cache();
  const Tensor<float> k(1, 2, 5, 16), v(1, 2, 4, 16);
  EXPECT_EQ(message_of([&] { cache.append(0, k.view(), v.view()); }),
            "append: v has shape [1, 2, 4, 16], k has [1, 2, 5, 16]; they must be equal");
  const Tensor<BFloat16> half(1, 2, 5, 16);
  EXPECT_EQ(message_of([&] { cache.append(0, half.view(), half.view()); }),
            "append: k is bfloat16, the cache is float32; they must be equal");
  EXPECT_EQ(cache.length(0), 10);
}

TEST(CacheChecks, SequencesAndLengthsMustBeThere) {
  KeyValueCache cache = small_cache();
  EXPECT_EQ(message_of([&] { cache.crop(3, 0); }), "crop: sequence is 3; the cache has 3");
  EXPECT_EQ(message_of([&] { cache.crop(1, 11); }),
            "crop: length is 11; it must be from 0 to 10, the length of sequence 1");
  EXPECT_EQ(message_of([&] { cache.fork(-1); }), "fork: sequence is -1; the cache has 3");
  EXPECT_EQ(message_of([&] { cache.reorder(std::vector<Index>{0, 7}); }), "reorder: sequence is 7; the cache has 3");
  EXPECT_EQ(message_of([&] { cache.length(5); }), "length: sequence is 5; the cache has 3");
  Tensor<float> k(1, 2, 4, 16), v(1, 2, 4, 16);
  for (const Index first : {Index{7}, Index{-1}, std::numeric_limits<Index>::max()}) {
    EXPECT_EQ(message_of([&] { cache.copy_tokens(0, first, k.view(), v.view()); }),
              concat("copy_tokens: 4 tokens from ", first, " on are asked for; sequence 0 has 10"));
  }
  EXPECT_EQ(message_of([&] { cache.copy_tokens(0, 0, k.view(), k.view()); }),
            "copy_tokens: k shares memory with v; it must lie apart");
}

std::string refused_queries(const Tensor<float>& q, const PlanOptions& plan = {},
                            const CacheOptions& options = small_options()) {
  KeyValueCache cache = small_cache(options);
  Tensor<float> o(q.batch, q.heads, q.tokens, q.dim);
  std::vector<float> lse(static_cast<std::size_t>(q.batch * q.heads * q.tokens));
  const std::vector<Index> all{0, 1, 2};
  return message_of([&] { cache.attend(all, q.view(), plan, {}, {o.view(), lse.data()}); });
}

TEST(CacheChecks, QueriesMustFit) {
  EXPECT_EQ(refused_queries({3, 4, 2, 16}), "no error");
  EXPECT_EQ(refused_queries({2, 4, 2, 16}), "attend: q has batch 2; there are 3 sequences");
  EXPECT_EQ(refused_queries({3, 3, 2, 16}),
            "attend: q has 3 heads, the cache 2; the first must be a multiple of the second");
  EXPECT_EQ(refused_queries({3, 4, 2, 24}), "attend: q has head dimension 24, the cache 16; they must be equal");
  EXPECT_EQ(refused_queries({3, 4, 11, 16}),
            "attend: q has 11 tokens, sequence 0 10; append their keys and values first");
}

TEST(CacheChecks, PlansMustFindWhatTheyNeed) {
  const Tensor<float> q = testing::normal_tensor<float>(3, 4, 1, 16, 3);
  CacheOptions full = small_options(), far = small_options();
  full.plan.pattern = Pattern::kFull;
  far.plan.hsa.far_field = true;
  const auto with = [](const std::function<void(PlanOptions&)>& change) {
    PlanOptions plan;
    change(plan);
    return plan;
  };
  EXPECT_EQ(
      refused_queries(q, {}, full),
      "attend: the plan is hsa, the cache was made for full and has no pyramid; make it for a plan that searches");
  EXPECT_EQ(refused_queries(q, with([](PlanOptions& o) { o.hsa.block = 16; })),
            "attend: the plan has nodes of 16 tokens, the cache's pyramid of 8; they must be equal");
  EXPECT_EQ(refused_queries(q, with([](PlanOptions& o) { o.hsa.pooling = Pooling::kMax; })),
            "attend: the plan's pooling is max, the cache's is mean; they must be equal");
  EXPECT_EQ(refused_queries(q, with([](PlanOptions& o) { o.hsa.far_field = true; })),
            "attend: the plan's far field is on, the cache's is off; make the cache with it");
  EXPECT_EQ(refused_queries(q, with([](PlanOptions& o) { o.causal = false; })),
            "attend: the plan is bidirectional; on a cache it must be causal");
  EXPECT_EQ(refused_queries(q, {}, far), "no error");
  for (const std::string& name : pattern_names()) {
    EXPECT_EQ(refused_queries(q, with([&](PlanOptions& o) { o.pattern = pattern_from_name(name); })), "no error")
        << name;
  }
}

TEST(CacheChecks, OutputsMustLieApart) {
  KeyValueCache cache = small_cache();
  Tensor<float> q = testing::normal_tensor<float>(3, 4, 1, 16, 3);
  EXPECT_EQ(message_of([&] { cache.attend(as_const(q.view()), {}, {q.view(), nullptr}); }),
            "attend: o shares memory with q; it must lie apart");
}

class SavedCache {
 public:
  SavedCache() : path_(::testing::TempDir() + "hsattn_cache_file_test" + std::to_string(getpid())) {
    small_cache().save(path_);
    std::ifstream file(path_, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    bytes_ = text.str();
  }
  ~SavedCache() { std::filesystem::remove(path_); }

  const std::string& bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  // The message with which this content is refused, without the path.
  std::string load(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary) << bytes;
    const std::string message = message_of([&] { KeyValueCache::load(path_); });
    return message.rfind(path_ + ": ", 0) == 0 ? message.substr(path_.size() + 2) : message;
  }
  // Whether the message begins with the path.
  bool names_itself_with(Index place, Index number) const {
    load_with(place, number);
    return message_of([&] { KeyValueCache::load(path_); }).rfind(path_ + ": ", 0) == 0;
  }
  // With the whole number `place` (counted behind the magic) replaced.
  std::string load_with(Index place, Index number) const {
    std::string changed = bytes_;
    std::memcpy(changed.data() + 8 + 8 * place, &number, sizeof number);
    return load(changed);
  }

 private:
  std::string path_, bytes_;
};

TEST(CacheFile, HoldsPlainNumbersOnly) {
  const SavedCache saved;
  const Index budgets = 19, numbers = 7 + 1 + budgets + 1 + 3;
  EXPECT_EQ(std::ssize(saved.bytes()), 8 + 8 * numbers + 3 * 2 * 2 * 10 * 16 * 4);
  EXPECT_EQ(saved.load(saved.bytes()), "no error");
  EXPECT_FALSE(std::filesystem::exists(saved.path() + ".part"));
}

TEST(CacheFile, MalformedOnesAreRefusedByTheirFault) {
  const SavedCache saved;
  EXPECT_EQ(saved.load(""), "ends within its first 8 bytes; 8 bytes are right, 0 are left");
  EXPECT_EQ(saved.load("no cache at all"), "begins with other bytes than 'hsattnkv'; no cache");
  EXPECT_EQ(saved.load_with(0, 9), "version is 9; 1 is right");
  EXPECT_EQ(saved.load_with(1, 0), "kv_heads is 0; it must be from 1 to 1048576");
  EXPECT_EQ(saved.load_with(2, 1 << 20), "dim is 1048576; it must be from 8 to 256");
  EXPECT_EQ(saved.load_with(3, 3), "dtype is 3; it must be from 0 to 2");
  EXPECT_TRUE(saved.names_itself_with(4, 65));
  EXPECT_EQ(saved.load_with(4, 65), "cache: page is 65; it must be a power of two from 64 to 65536");
  EXPECT_EQ(saved.load_with(6, 7), "pattern is 7; it must be from 0 to 6");
  EXPECT_EQ(saved.load_with(7, 1000), "ends within a budget; there should be 1000") << "more than the file could hold";
  EXPECT_EQ(saved.load_with(11, 6), "options: block is 6; it must be a power of two from 1 to 64");
  EXPECT_EQ(saved.load_with(27, Index{1} << 31), "ends within the length of a sequence; there should be 2147483648");
  EXPECT_EQ(saved.load_with(28, Index{1} << 50),
            "the length of a sequence is 1125899906842624; it must be from 0 to 30");
  EXPECT_EQ(saved.load_with(28, 11), "holds 7680 bytes of keys and values; its sequences have more");
  EXPECT_EQ(saved.load_with(28, 9), "holds 7680 bytes of keys and values; 7424 are right for 29 tokens");
  EXPECT_EQ(saved.load(saved.bytes() + "x"), "holds 7681 bytes of keys and values; 7680 are right for 30 tokens");
}

// Each is refused, or is a cache of other numbers: never anything else.
TEST(CacheFile, ThousandDamagedOnesDoNoHarm) {
  const SavedCache saved;
  Random random(8);
  Index refused = 0;
  for (int i = 0; i < 1000; ++i) {
    std::string bytes = saved.bytes();
    if (i % 3 == 0) bytes.resize(static_cast<std::size_t>(uniform(random, 0, std::ssize(bytes) - 1)));
    for (Index n = uniform(random, 0, 4); n > 0 && !bytes.empty(); --n) {
      const Index header = std::min<Index>(std::ssize(bytes), 232);
      bytes[static_cast<std::size_t>(uniform(random, 0, header - 1))] = static_cast<char>(uniform(random, 0, 255));
    }
    refused += saved.load(bytes) != "no error";
  }
  EXPECT_GT(refused, 600);
}

TEST(CacheFile, SaysWhichFileCannotBeOpened) {
  EXPECT_EQ(message_of([] { KeyValueCache::load("/no/such/file"); }),
            "cannot read /no/such/file: No such file or directory");
  EXPECT_EQ(message_of([] { small_cache().save("/no/such/file"); }),
            "cannot write /no/such/file: No such file or directory");
}

}  // namespace
}  // namespace hsattn
