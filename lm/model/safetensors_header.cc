#include "lm/model/safetensors_header.h"

#include <algorithm>
#include <cstring>

#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"

namespace hsattn::lm {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kLongestHeader = 100'000'000;
constexpr std::size_t kLengthBytes = 8;

std::size_t bytes_of(const std::string& type) {
  static const std::map<std::string, std::size_t> sizes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8}, {"U64", 8}};
  const auto found = sizes.find(type);
  return found == sizes.end() ? 0 : found->second;
}

class Reader {
 public:
  Reader(std::string_view file, const std::string& path) : file_(file), path_(path) {}

  SafeTensorsHeader read() {
    const std::string_view text = header_text();
    if (!text.starts_with('{')) fail("not a safetensors file: its header does not begin with {");
    const Json header = parse_untrusted_json(text, path_ + ": the header", /*depth=*/3);
    SafeTensorsHeader content;
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        content.metadata = read_metadata(entry);
      } else {
        content.tensors.push_back(read_place(name, entry));
      }
    }
    check_cover(content.tensors);
    return content;
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw FileError(concat(path_, ": ", parts...));
  }

  std::string_view header_text() {
    std::uint64_t length = 0;
    if (file_.size() < kLengthBytes) fail(file_.size(), " bytes; a safetensors file has at least ", kLengthBytes);
    std::memcpy(&length, file_.data(), kLengthBytes);
    if (length > kLongestHeader) fail("a header of ", length, " bytes; at most ", kLongestHeader, " are right");
    if (length > file_.size() - kLengthBytes) {
      fail("a header of ", length, " bytes in a file of ", file_.size(), "; it is cut off");
    }
    data_ = kLengthBytes + static_cast<std::size_t>(length);
    return file_.substr(kLengthBytes, static_cast<std::size_t>(length));
  }

  std::map<std::string, std::string> read_metadata(const Json& entry) const {
    std::map<std::string, std::string> metadata;
    if (!entry.is_object()) fail("__metadata__ is no object");
    for (const auto& [name, value] : entry.items()) {
      if (!value.is_string()) fail("__metadata__: ", quoted(name), " is no text");
      metadata.emplace(name, value.get<std::string>());
    }
    return metadata;
  }

  TensorPlace read_place(const std::string& name, const Json& entry) const {
    const std::string what = concat(path_, ": tensor ", quoted(name));
    const FieldReader fields(entry, what);
    const std::size_t available = file_.size() - data_;
    TensorPlace place{.name = name, .type = fields.text("dtype"), .shape = {}, .begin = 0, .bytes = 0};
    const std::size_t size_of_type = bytes_of(place.type);
    if (size_of_type == 0) throw FileError(concat(what, ": type ", quoted(place.type), " is unknown"));
    place.shape = numbers(fields.value("shape"), what + ": shape");
    const std::size_t bytes = size_of_type * elements(place.shape, available / size_of_type, what);
    const std::vector<Index> offsets = numbers(fields.value("data_offsets"), what + ": data_offsets");
    if (offsets.size() != 2 || offsets[0] > offsets[1] || static_cast<std::size_t>(offsets[1]) > available) {
      throw FileError(concat(what, ": data_offsets are not two within the file's ", available, " bytes of data"));
    }
    if (static_cast<std::size_t>(offsets[1] - offsets[0]) != bytes) {
      throw FileError(concat(what, ": ", offsets[1] - offsets[0], " bytes; type and shape need ", bytes));
    }
    place.begin = data_ + static_cast<std::size_t>(offsets[0]);
    place.bytes = bytes;
    return place;
  }

  static std::vector<Index> numbers(const Json& list, const std::string& what) {
    std::vector<Index> values;
    if (!list.is_array()) throw FileError(what + " is no list");
    for (const Json& value : list) {
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() > 1ull << 62) {
        throw FileError(what + " holds something that is no size");
      }
      values.push_back(value.get<Index>());
    }
    return values;
  }

  // Elements of a shape, at most `most`. Sizes beside a zero must not overflow either: strides are made of them.
  static std::size_t elements(const std::vector<Index>& shape, std::size_t most, const std::string& what) {
    std::size_t product = 1;
    bool empty = false;
    for (const Index size : shape) empty = empty || size == 0;
    if (empty) most = std::size_t{1} << 48;
    for (const Index size : shape) {
      const auto factor = static_cast<std::size_t>(std::max<Index>(size, 1));
      if (product > most / factor) throw FileError(what + ": its shape is larger than the file");
      product *= factor;
    }
    return empty ? 0 : product;
  }

  // Each byte of data belongs to one tensor.
  void check_cover(const std::vector<TensorPlace>& tensors) const {
    std::vector<const TensorPlace*> sorted;
    for (const TensorPlace& place : tensors) sorted.push_back(&place);
    std::sort(sorted.begin(), sorted.end(), [](const TensorPlace* a, const TensorPlace* b) {
      return a->begin != b->begin ? a->begin < b->begin : a->bytes < b->bytes;
    });
    std::size_t end = data_;
    for (const TensorPlace* place : sorted) {
      if (place->begin < end) fail("tensor ", quoted(place->name), " overlaps the one before it");
      if (place->begin > end) fail("a hole of ", place->begin - end, " bytes before tensor ", quoted(place->name));
      end = place->begin + place->bytes;
    }
    if (end != file_.size()) fail(file_.size() - end, " bytes behind the last tensor");
  }

  std::string_view file_;
  const std::string& path_;
  std::size_t data_ = 0;  // where the tensors' bytes begin
};

}  // namespace

SafeTensorsHeader read_safetensors_header(std::string_view file, const std::string& path) {
  return Reader(file, path).read();
}

}  // namespace hsattn::lm
