#include "lm/tokenizer/added_tokens.h"

#include <algorithm>

#include "lm/tokenizer/unicode.h"

namespace hsattn::lm {
namespace {

std::uint64_t edge(std::uint32_t node, char c) {
  return static_cast<std::uint64_t>(node) << 8 | static_cast<unsigned char>(c);
}

std::size_t spaces_at_start(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Code code = decode_code(text.data() + at);
    if ((code_flags()[code.value] & kSpace) == 0) break;
    at += code.bytes;
  }
  return at;
}

// Where the white space at the end begins.
std::size_t spaces_at_end(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t at = end - 1;
    while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
    if ((code_flags()[decode_code(text.data() + at).value] & kSpace) == 0) break;
    end = at;
  }
  return end;
}

}  // namespace

void AddedTokenFinder::add(const std::string& name, const AddedToken& token) {
  std::uint32_t node = 0;
  for (const char c : name) {
    const auto [found, is_new] = edges_.try_emplace(edge(node, c), static_cast<std::uint32_t>(ends_.size()));
    if (is_new) ends_.push_back(-1);
    node = found->second;
  }
  starts_[static_cast<unsigned char>(name.front())] = true;
  ends_[node] = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(token);
}

AddedTokenFinder::Found AddedTokenFinder::longest_at(std::string_view text, std::size_t at) const {
  Found found{nullptr, 0};
  std::uint32_t node = 0;
  for (std::size_t i = at; i < text.size(); ++i) {
    const auto next = edges_.find(edge(node, text[i]));
    if (next == edges_.end()) break;
    node = next->second;
    if (ends_[node] >= 0) found = {&tokens_[static_cast<std::size_t>(ends_[node])], i + 1 - at};
  }
  return found;
}

std::vector<Segment> AddedTokenFinder::cut(std::string_view text) const {
  std::vector<Segment> out;
  std::size_t done = 0;  // everything before is in `out`
  for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
    if (!starts_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const Found found = longest_at(text, at);
    if (found.token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + found.bytes;
    at = end;
    if (found.token->strip_left) begin = std::max(done, spaces_at_end(text.substr(0, begin)));
    if (found.token->strip_right) end += spaces_at_start(text.substr(end));
    if (done < begin) out.push_back({kNoToken, text.substr(done, begin - done)});
    out.push_back({found.token->id, text.substr(std::min(begin, end), end - std::min(begin, end))});
    done = end;
  }
  if (done < text.size()) out.push_back({kNoToken, text.substr(done)});
  return out;
}

}  // namespace hsattn::lm
