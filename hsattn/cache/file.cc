// A cache as a file: numbers of 64 bits, lowest byte first, then plain keys and values.
//
//   8 bytes    "hsattnkv"
//   kVersion, kv_heads, dim, dtype, page, rounded keys (0, 1; 2: unset), pattern
//   the number of budgets and the budgets, in the order of budgets_of()
//   the number of sequences and the length of each
//   of each sequence k [kv_heads, tokens, dim], then v, in dtype
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "hsattn/base/buffer.h"
#include "hsattn/base/files.h"
#include "hsattn/cache/state.h"
#include "hsattn/plan/budgets.h"

namespace hsattn {
namespace {

static_assert(std::endian::native == std::endian::little, "the file is written as numbers lie in memory");

constexpr char kMagic[] = {'h', 's', 'a', 't', 't', 'n', 'k', 'v'};
constexpr Index kVersion = 1;
constexpr Index kMostHeads = Index{1} << 20, kMostBudgets = kMostHeads + 1024, kMostSequences = Index{1} << 32;
constexpr std::array kTypes = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
constexpr Index kUnset = 2;

Index number_of(DType type) { return std::find(kTypes.begin(), kTypes.end(), type) - kTypes.begin(); }

// Of the tokens of one sequence: k or v.
Index elements_of(const CacheOptions& o, Index tokens) { return o.kv_heads * tokens * o.dim; }

// A file that may hold anything.
class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), file_(path, std::ios::binary) {
    if (!file_) throw_file_error("read", path);
    std::error_code error;
    left_ = static_cast<Index>(std::filesystem::file_size(path, error));
    if (error) throw FileError(concat("cannot read ", path, ": ", error.message()));
  }

  template <class... Parts>
  void require(bool ok, const Parts&... parts) const {
    if (!ok) throw FileError(concat(path_, ": ", parts...));
  }
  Index left() const { return left_; }
  void bytes(void* to, Index count, const char* what) {
    require(count <= left_, "ends within ", what, "; ", count, " bytes are right, ", left_, " are left");
    left_ -= count;
    require(static_cast<bool>(file_.read(static_cast<char*>(to), count)), "cannot read ", what);
  }
  Index number(const char* what, Index least, Index most) {
    Index value = 0;
    bytes(&value, sizeof value, what);
    require(value >= least && value <= most, what, " is ", value, "; it must be from ", least, " to ", most);
    return value;
  }
  std::vector<Index> numbers(const char* what, Index count, Index least, Index most) {
    require(count <= left_ / static_cast<Index>(sizeof(Index)), "ends within ", what, "; there should be ", count);
    auto values = allocate_vector<Index>(count, "load: numbers");
    for (Index& value : values) value = number(what, least, most);
    return values;
  }

 private:
  std::string path_;
  std::ifstream file_;
  Index left_ = 0;
};

CacheOptions read_options(Reader& file) {
  constexpr Index kAny = std::numeric_limits<Index>::max();
  char magic[sizeof kMagic];
  file.bytes(magic, sizeof magic, "its first 8 bytes");
  file.require(std::memcmp(magic, kMagic, sizeof magic) == 0, "begins with other bytes than 'hsattnkv'; no cache");
  const Index version = file.number("version", 0, kAny);
  file.require(version == kVersion, "version is ", version, "; ", kVersion, " is right");
  CacheOptions o;
  o.kv_heads = file.number("kv_heads", 1, kMostHeads);
  o.dim = file.number("dim", 8, 256);
  o.dtype = kTypes[static_cast<std::size_t>(file.number("dtype", 0, std::ssize(kTypes) - 1))];
  o.page = file.number("page", 64, 65536);
  const Index rounded = file.number("rounded keys", 0, kUnset);
  if (rounded != kUnset) o.rounded_keys = rounded == 1;
  o.plan.pattern = static_cast<Pattern>(file.number("pattern", 0, std::ssize(pattern_names()) - 1));
  const Index budgets = file.number("the number of budgets", 0, kMostBudgets);
  try {
    o.plan.hsa = options_of_budgets(file.numbers("a budget", budgets, -1, kAny));
    check_cache_options(o);
  } catch (const InvalidArgument& error) {
    file.require(false, error.what());
  }
  return o;
}

}  // namespace

void KeyValueCache::save(const std::string& path) const {
  const CacheOptions& o = options();
  AtomicFile file(path);
  const auto write = [&](Index number) { file.write(&number, sizeof number); };
  file.write(kMagic, sizeof kMagic);
  write(kVersion);
  for (const Index number : {o.kv_heads, o.dim, number_of(o.dtype), o.page}) write(number);
  write(o.rounded_keys ? static_cast<Index>(*o.rounded_keys) : kUnset);
  write(static_cast<Index>(o.plan.pattern));
  const std::vector<Index> budgets = budgets_of(o.plan.hsa);
  write(std::ssize(budgets));
  for (const Index budget : budgets) write(budget);
  write(sequences());
  for (Index i = 0; i < sequences(); ++i) write(length(i));
  for (Index i = 0; i < sequences(); ++i) {
    const Index bytes = elements_of(o, length(i)) * size_of(o.dtype);
    const auto k = allocate_buffer<std::byte>(bytes, "save: keys"),
               v = allocate_buffer<std::byte>(bytes, "save: values");
    const auto view = [&](void* data) { return contiguous_view(data, o.dtype, 1, o.kv_heads, length(i), o.dim); };
    copy_tokens(i, 0, view(k.get()), view(v.get()));
    file.write(k.get(), bytes);
    file.write(v.get(), bytes);
  }
  file.commit();
}

KeyValueCache KeyValueCache::load(const std::string& path) {
  Reader file(path);
  const CacheOptions o = read_options(file);
  const Index token = 2 * o.kv_heads * o.dim * size_of(o.dtype);  // bytes
  const Index count = file.number("the number of sequences", 0, kMostSequences);
  const std::vector<Index> lengths = file.numbers("the length of a sequence", count, 0, file.left() / token);
  Index tokens = 0;  // no overflow: each at most file size / token, as many as the file has numbers of 8 bytes
  for (const Index length : lengths) {
    tokens += length;
    file.require(tokens <= file.left() / token, "holds ", file.left(), " bytes of keys and values; its sequences have ",
                 "more");
  }
  file.require(tokens * token == file.left(), "holds ", file.left(), " bytes of keys and values; ", tokens * token,
               " are right for ", tokens, " tokens");
  KeyValueCache cache(o, count);
  for (Index i = 0; i < count; ++i) {
    const Index bytes = elements_of(o, lengths[i]) * size_of(o.dtype);
    const auto k = allocate_buffer<std::byte>(bytes, "load: keys"),
               v = allocate_buffer<std::byte>(bytes, "load: values");
    file.bytes(k.get(), bytes, "keys");
    file.bytes(v.get(), bytes, "values");
    const auto view = [&](const void* data) {
      return contiguous_view(data, o.dtype, 1, o.kv_heads, lengths[i], o.dim);
    };
    cache.append(i, view(k.get()), view(v.get()));
  }
  return cache;
}

}  // namespace hsattn
