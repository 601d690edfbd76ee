#include "lm/tokenizer/byte_pairs.h"

#include <algorithm>
#include <bit>
#include <queue>

namespace hsattn::lm {
namespace {

constexpr std::size_t kShort = 48;  // tokens up to which looking at all pairs for each merge beats a heap

// A pair that may be merged: the lowest rank first, then the leftmost.
struct Candidate {
  std::uint32_t rank, position;
  Token into;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

// Tokens of a long piece as a doubly linked list.
struct Link {
  Token token;
  std::int64_t before, after;  // -1: none
};

}  // namespace

BytePairs::BytePairs(const std::array<Token, 256>& bytes, Token unknown, const std::vector<Merge>& merges)
    : bytes_(bytes), unknown_(unknown) {
  const std::size_t slots = std::bit_ceil(2 * merges.size() + 2);
  shift_ = 64 - std::countr_zero(slots);
  rules_.resize(slots + 1);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::uint64_t pair = key(merges[rank].left, merges[rank].right);
    std::size_t at = slot(pair);
    while (rules_[at].into != kNoToken && rules_[at].pair != pair) at = (at + 1) & (slots - 1);
    rules_[at] = {pair, static_cast<std::uint32_t>(rank), merges[rank].into};
  }
}

const BytePairs::Rule& BytePairs::find(Token left, Token right) const {
  const std::uint64_t pair = key(left, right);
  const std::size_t slots = rules_.size() - 1;
  for (std::size_t at = slot(pair);; at = (at + 1) & (slots - 1)) {
    if (rules_[at].pair == pair) return rules_[at];
    if (rules_[at].into == kNoToken) return rules_[slots];
  }
}

void BytePairs::append(std::string_view piece, std::vector<Token>& out) const {
  const std::size_t begin = out.size();
  for (const char c : piece) {
    const Token token = bytes_[static_cast<unsigned char>(c)];
    if (token != kNoToken) {
      out.push_back(token);
    } else if (unknown_ != kNoToken) {
      out.push_back(unknown_);
    }
  }
  if (out.size() - begin <= kShort) {
    merge_short(out, begin);
  } else {
    merge_long(out, begin);
  }
}

void BytePairs::merge_short(std::vector<Token>& tokens, std::size_t begin) const {
  const Rule* rules[kShort];  // of each token with the next one
  Token* t = tokens.data() + begin;
  std::size_t count = tokens.size() - begin;
  for (std::size_t i = 0; i + 1 < count; ++i) rules[i] = &find(t[i], t[i + 1]);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (rules[i]->rank < rules[best]->rank) best = i;
    }
    if (rules[best]->into == kNoToken) break;
    t[best] = rules[best]->into;
    std::copy(t + best + 2, t + count, t + best + 1);
    if (best + 2 < count) std::copy(rules + best + 2, rules + count - 1, rules + best + 1);
    --count;
    if (best + 1 < count) rules[best] = &find(t[best], t[best + 1]);
    if (best > 0) rules[best - 1] = &find(t[best - 1], t[best]);
  }
  tokens.resize(begin + count);
}

void BytePairs::merge_long(std::vector<Token>& tokens, std::size_t begin) const {
  const auto count = static_cast<std::int64_t>(tokens.size() - begin);
  std::vector<Link> links(static_cast<std::size_t>(count));
  const auto link = [&](std::int64_t i) -> Link& { return links[static_cast<std::size_t>(i)]; };
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](std::int64_t i) {
    if (i < 0 || link(i).after < 0) return;
    const Rule& rule = find(link(i).token, link(link(i).after).token);
    if (rule.into != kNoToken) queue.push({rule.rank, static_cast<std::uint32_t>(i), rule.into});
  };
  for (std::int64_t i = 0; i < count; ++i) {
    link(i) = {tokens[begin + static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1};
  }
  for (std::int64_t i = 0; i < count; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    const std::int64_t i = best.position, next = link(i).after;
    // Stale: one of the two was merged meanwhile.
    if (link(i).token == kNoToken || next < 0 || find(link(i).token, link(next).token).into != best.into) continue;
    link(i).token = best.into;
    link(i).after = link(next).after;
    if (link(next).after >= 0) link(link(next).after).before = i;
    link(next).token = kNoToken;
    offer(link(i).before);
    offer(i);
  }
  tokens.resize(begin);
  for (std::int64_t i = 0; i >= 0; i = link(i).after) tokens.push_back(link(i).token);
}

}  // namespace hsattn::lm
