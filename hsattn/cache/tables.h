// What a page holds, and one key/value head of a sequence as the kernels see it.
#pragma once

#include <cstdint>
#include <vector>

#include "hsattn/cache/cache.h"
#include "hsattn/cache/pages.h"
#include "hsattn/kernels/cpu/layout.h"
#include "hsattn/kernels/cpu/pack.h"

namespace hsattn {

/// The tables of one kv head in a page, in bytes from the head's first; those of the next head follow. -1: not kept.
struct PageTables {
  Index keys_t = -1, values = -1, keys_int8 = -1, key_scales = -1, not_finite = -1;
  Index node_keys = -1, node_values = -1;  // of nodes: [nodes, padded dim] floats
  Index head_bytes = 0;
};

/// One sequence: pages of tokens, and of the nodes of each level. What lies behind its length is left from before.
struct CachedSequence {
  Index length = 0;
  PageList tokens;
  std::vector<PageList> levels;
  PageList parts;                        // of the smallest nodes
  std::vector<std::uint8_t> not_finite;  // [kv_heads]: not 0 if anything ever was, since the sequence began

  /// No page is written while two share it, so a copy is a fork.
  CachedSequence(Index token_bytes, Index part_bytes, Index kv_heads);
};

/// How a cache with these options packs.
class CacheTables {
 public:
  explicit CacheTables(const CacheOptions& options);

  const CacheOptions& options() const { return options_; }
  const cpu::PackRequest& request() const { return request_; }
  Index block() const { return request_.block; }
  bool has_nodes() const { return request_.search || request_.far_field; }
  bool has_parts() const { return request_.search && request_.parts > 1; }
  /// From this level on the float keys of nodes are kept for the nodes above them; below they are pooled again when a
  /// parent is made. All are kept for a far field.
  Index first_kept_level() const { return first_kept_level_; }

  CachedSequence empty_sequence() const;
  /// Makes room for tokens up to `length`, and owns the pages that these are written to.
  void prepare(CachedSequence& sequence, Index length) const;
  /// Drops pages that no token before `length` needs.
  void shrink(CachedSequence& sequence, Index length) const;
  /// The head as kernels see it when the sequence has `length` tokens.
  cpu::PackedHead head(const CachedSequence& sequence, Index kv_head, Index length) const;

 private:
  static constexpr Index kNodes = 32;  // of a page

  const PageTables& tables_of_level(Index level) const {
    return level == 0 ? smallest_nodes_ : level < first_kept_level_ ? bare_nodes_ : nodes_;
  }
  Index parts(Index length) const { return has_parts() ? nodes(length, 0) * request_.parts : 0; }
  Index nodes(Index length, Index level) const { return length / (request_.block << level); }
  Index levels(Index length) const;  // with at least one node
  cpu::PackedLevel packed_level(const PageList& pages, const PageTables& tables, Index kv_head) const;

  CacheOptions options_;
  cpu::PackRequest request_;
  cpu::PackedHead shape_;  // of no tokens
  Index first_kept_level_ = 0;
  PageTables tokens_, bare_nodes_, nodes_, smallest_nodes_, parts_;
};

/// Makes the nodes of one head that tokens from `first` on complete; their units are packed. True if all that the far
/// field attends are finite.
bool make_nodes(const CacheTables& tables, const cpu::PackedHead& head, Index first);

}  // namespace hsattn
