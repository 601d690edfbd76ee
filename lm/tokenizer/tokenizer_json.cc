// tokenizer.json, an untrusted file, into TokenizerContent. What is not supported is refused by name.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/options/untrusted_json.h"
#include "lm/tokenizer/tokenizer.h"
#include "lm/tokenizer/unicode.h"

namespace hsattn::lm {
namespace {

using Json = nlohmann::json;
constexpr std::uintmax_t kLargestFile = 1 << 28;  // bytes; those of known models have 2 to 33 MB
constexpr std::uint64_t kLargestVocabulary = 1 << 20;

// The characters that stand for bytes in a vocabulary: printable ones for themselves, the others from U+0100 on.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
      bytes_[printable ? static_cast<char32_t>(byte) : next++] = static_cast<char>(byte);
    }
  }
  // The bytes that `name` stands for; `of_bytes` is false, and the name is returned, if it has any other character.
  std::string decode(const std::string& name, bool& of_bytes) const {
    std::string out;
    for (std::size_t at = 0; at < name.size();) {
      const Code code = decode_code(name.data() + at);
      const auto found = bytes_.find(code.value);
      if (found == bytes_.end()) {
        of_bytes = false;
        return name;
      }
      out += found->second;
      at += code.bytes;
    }
    of_bytes = true;
    return out;
  }

 private:
  std::unordered_map<char32_t, char> bytes_;
};

class Reader {
 public:
  Reader(const Json& root, const std::string& name) : root_(root), name_(name) {}

  TokenizerContent read() {
    if (!member(root_, "model").is_object()) fail("no tokenizer.json: it has no \"model\"");
    read_model(member(root_, "model"));
    read_added_tokens();
    read_normalizer(member(root_, "normalizer"));
    read_splits(member(root_, "pre_tokenizer"), /*nested=*/false);
    require(byte_level_, "a pre_tokenizer without ByteLevel");
    require(is_byte_level(member(root_, "decoder")), "a decoder that is not ByteLevel");
    read_template(member(root_, "post_processor"));
    require(member(root_, "truncation").is_null(), "truncation");
    require(member(root_, "padding").is_null(), "padding");
    return std::move(content_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw FileError(concat(name_, ": ", parts...));
  }
  void require(bool ok, const std::string& what) const {
    if (!ok) throw Unsupported(concat(name_, ": ", what, " is not supported; byte-level BPE is"));
  }

  // null if it is missing.
  const Json& member(const Json& object, const char* key) const {
    static const Json null;
    if (!object.is_object()) fail("no object where one with \"", key, "\" is expected");
    const auto found = object.find(key);
    return found == object.end() ? null : *found;
  }
  std::string text(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    if (!value.is_string()) fail("\"", key, "\" is no string");
    return value.get<std::string>();
  }
  bool flag(const Json& object, const char* key, bool otherwise) const {
    const Json& value = member(object, key);
    if (!value.is_null() && !value.is_boolean()) fail("\"", key, "\" is neither true nor false");
    return value.is_null() ? otherwise : value.get<bool>();
  }
  Token token_id(const Json& value, const std::string& of) const {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= kLargestVocabulary) {
      fail("the token ", lm::quoted(of), " has the id ", value.dump(), "; a number below ", kLargestVocabulary,
           " is right");
    }
    return value.get<Token>();
  }
  static bool empty(const Json& value) {
    return value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty()) || value == 0.0;
  }

  void read_model(const Json& model) {
    const Json& type = member(model, "type");
    require(type == "BPE" || type.is_null(), "the model " + type.dump());
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      require(empty(member(model, key)), concat("the model's ", key));
    }
    require(!flag(model, "byte_fallback", false), "the model's byte_fallback");
    content_.ignore_merges = flag(model, "ignore_merges", false);
    read_vocabulary(member(model, "vocab"));
    read_bytes(model);
    read_merges(member(model, "merges"));
  }

  void put(Token id, std::string bytes, bool of_bytes) {
    if (id >= content_.vocabulary.size()) {
      content_.vocabulary.resize(id + 1);
      content_.exists.resize(id + 1, false);
      content_.of_bytes.resize(id + 1, false);
    }
    if (content_.exists[id]) fail("two tokens have the id ", id);
    content_.vocabulary[id] = std::move(bytes);
    content_.exists[id] = true;
    content_.of_bytes[id] = of_bytes;
  }

  void read_vocabulary(const Json& vocabulary) {
    if (!vocabulary.is_object() || vocabulary.empty()) fail("the model's \"vocab\" is no object of tokens");
    for (const auto& [name, id] : vocabulary.items()) {
      bool of_bytes = false;
      std::string bytes = alphabet_.decode(name, of_bytes);
      const Token token = token_id(id, name);
      put(token, std::move(bytes), of_bytes);
      ids_.emplace(name, token);
    }
  }

  void read_bytes(const Json& model) {
    content_.bytes.fill(kNoToken);
    bool all = true;
    for (Token id = 0; id < content_.vocabulary.size(); ++id) {
      const std::string& bytes = content_.vocabulary[id];
      if (content_.of_bytes[id] && bytes.size() == 1) content_.bytes[static_cast<unsigned char>(bytes[0])] = id;
    }
    for (const Token token : content_.bytes) all = all && token != kNoToken;
    const Json& unknown = member(model, "unk_token");
    if (all || unknown.is_null()) return;
    const auto found = ids_.find(text(model, "unk_token"));
    if (found == ids_.end()) fail("the unk_token ", unknown.dump(), " is not in the vocabulary");
    require(!flag(model, "fuse_unk", false), "fuse_unk");
    content_.unknown = found->second;
  }

  Token known(const std::string& name, std::size_t merge) const {
    const auto found = ids_.find(name);
    if (found == ids_.end()) fail("merge ", merge, " needs the token ", lm::quoted(name), ", which does not exist");
    return found->second;
  }

  void read_merges(const Json& merges) {
    if (!merges.is_array()) fail("the model's \"merges\" is no list");
    if (merges.size() > 4 * kLargestVocabulary) fail(merges.size(), " merges; fewer are right");
    for (const Json& merge : merges) {
      const std::size_t number = content_.merges.size();
      std::string left, right;
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>(), right = merge[1].get<std::string>();
      } else if (merge.is_string()) {
        const std::string both = merge.get<std::string>();
        const std::size_t space = both.find(' ');
        if (space == std::string::npos || both.find(' ', space + 1) != std::string::npos) {
          fail("merge ", number, " is ", merge.dump(), "; two tokens with a space between are right");
        }
        left = both.substr(0, space), right = both.substr(space + 1);
      } else {
        fail("merge ", number, " is ", merge.dump(), "; two tokens are right");
      }
      content_.merges.push_back({known(left, number), known(right, number), known(left + right, number)});
    }
  }

  void read_added_tokens() {
    const Json& added = member(root_, "added_tokens");
    if (!added.is_null() && !added.is_array()) fail("\"added_tokens\" is no list");
    for (const Json& entry : added) {
      AddedToken token;
      token.name = text(entry, "content");
      if (token.name.empty()) continue;
      token.id = token_id(member(entry, "id"), token.name);
      token.special = flag(entry, "special", false);
      token.normalized = flag(entry, "normalized", !token.special);
      token.strip_left = flag(entry, "lstrip", false);
      token.strip_right = flag(entry, "rstrip", false);
      require(!flag(entry, "single_word", false), "single_word of the added token " + lm::quoted(token.name));
      const auto found = ids_.find(token.name);
      if (found == ids_.end()) {
        bool of_bytes = false;
        put(token.id, alphabet_.decode(token.name, of_bytes), false);
        ids_.emplace(token.name, token.id);
      } else if (found->second != token.id) {
        fail("the added token ", lm::quoted(token.name), " has the id ", token.id, ", the vocabulary says ",
             found->second);
      }
      content_.added.push_back(std::move(token));
    }
  }

  void read_normalizer(const Json& normalizer) {
    if (normalizer.is_null()) return;
    const std::string type = text(normalizer, "type");
    if (type == "Sequence") {
      for (const Json& part : member(normalizer, "normalizers")) read_normalizer(part);
      return;
    }
    require(type == "NFC", "the normalizer " + lm::quoted(type));
    content_.normal_form_c = true;
  }

  void read_template(const Json& processor) {
    if (processor.is_null()) return;
    const std::string type = text(processor, "type");
    if (type == "Sequence") {
      for (const Json& part : member(processor, "processors")) read_template(part);
    } else if (type == "TemplateProcessing") {
      if (!content_.before.empty() || !content_.after.empty()) content_.unknown_template = "of two TemplateProcessing";
      read_single(member(processor, "single"), member(processor, "special_tokens"));
    } else if (type != "ByteLevel") {  // which sets offsets alone
      content_.unknown_template = lm::quoted(type);
    }
  }

  // What stands before and behind the text where there is one.
  void read_single(const Json& parts, const Json& special) {
    bool behind = false;
    if (!parts.is_array()) fail("the post_processor's \"single\" is no list");
    for (const Json& part : parts) {
      if (!member(part, "Sequence").is_null()) {
        if (behind) fail("the post_processor's \"single\" holds the text twice");
        behind = true;
        continue;
      }
      const std::string name = text(member(part, "SpecialToken"), "id");
      const Json& ids = member(member(special, name.c_str()), "ids");
      if (!ids.is_array()) fail("the post_processor's special token ", lm::quoted(name), " has no \"ids\"");
      for (const Json& id : ids) {
        const Token token = token_id(id, name);
        if (token >= content_.exists.size() || !content_.exists[token])
          fail("the post_processor puts token ", token, ", which does not exist, around texts");
        (behind ? content_.after : content_.before).push_back(token);
      }
    }
    if (!behind) fail("the post_processor's \"single\" leaves the text out");
  }

  void read_splits(const Json& splits, bool nested) {
    if (splits.is_null()) return;
    const std::string type = text(splits, "type");
    require(!byte_level_, "a pre_tokenizer after ByteLevel");
    if (type == "Sequence") {
      require(!nested, "a Sequence of pre_tokenizers in another one");
      for (const Json& part : member(splits, "pretokenizers")) read_splits(part, true);
    } else if (type == "ByteLevel") {
      byte_level_ = true;
      content_.steps.push_back(
          {flag(splits, "use_regex", true), SplitRule::kGpt2, flag(splits, "add_prefix_space", true)});
    } else if (type == "Digits") {
      require(flag(splits, "individual_digits", false), "the pre_tokenizer Digits without individual_digits");
      content_.steps.push_back({true, SplitRule::kDigits, false});
    } else {
      require(type == "Split", "the pre_tokenizer " + lm::quoted(type));
      content_.steps.push_back({true, split_rule(splits), false});
    }
  }

  SplitRule split_rule(const Json& split) const {
    const std::string expression = text(member(split, "pattern"), "Regex");
    const std::string behavior = text(split, "behavior");
    const bool invert = flag(split, "invert", false);
    // The known expressions match everything, so keeping matches and keeping matches alone are the same.
    require((behavior == "Isolated" && !invert) || (behavior == "Removed" && invert),
            concat("a Split with behavior ", lm::quoted(behavior), invert ? ", inverted," : ""));
    for (const SplitRule rule : {SplitRule::kGpt2, SplitRule::kLlama3, SplitRule::kQwen2}) {
      if (expression == expression_of(rule)) return rule;
    }
    throw Unsupported(concat(name_, ": the Split ", lm::quoted(expression),
                             " is not known here; those of GPT-2, Llama 3 and Qwen 2 are"));
  }

  bool is_byte_level(const Json& decoder) const {
    if (decoder.is_null()) return false;
    const Json& type = member(decoder, "type");
    if (type != "Sequence") return type == "ByteLevel";
    const Json& parts = member(decoder, "decoders");
    return parts.is_array() && parts.size() == 1 && is_byte_level(parts[0]);
  }

  const Json& root_;
  const std::string& name_;
  const ByteAlphabet alphabet_;
  std::unordered_map<std::string, Token> ids_;
  TokenizerContent content_;
  bool byte_level_ = false;
};

}  // namespace

Tokenizer Tokenizer::parse(std::string_view json, const std::string& name) {
  const Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) throw FileError(name + ": not JSON");
  return Tokenizer(Reader(root, name).read());
}

Tokenizer Tokenizer::read(const std::string& path) {
  std::error_code ignored;
  const std::uintmax_t bytes = std::filesystem::file_size(path, ignored);
  if (!ignored && bytes > kLargestFile) {
    throw FileError(concat(path, ": ", bytes, " bytes; a tokenizer.json has at most ", kLargestFile));
  }
  return parse(read_file(path), path);
}

}  // namespace hsattn::lm
