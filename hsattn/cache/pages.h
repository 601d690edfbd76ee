// Memory that grows by pages, which several owners may share until one of them writes.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn {

class PageList {
 public:
  explicit PageList(Index page_bytes) : page_bytes_(page_bytes) {}

  Index count() const { return static_cast<Index>(pages_.size()); }
  Index page_bytes() const { return page_bytes_; }
  std::byte* const* data() const { return memory_.data(); }
  bool shared(Index page) const { return pages_[static_cast<std::size_t>(page)].use_count() > 1; }

  /// Zeros at the end until there are `count` pages; pages from `first_written` on become this list's own. Throws
  /// OutOfMemory; the list holds what it held then, and perhaps pages too many.
  void prepare(Index count, Index first_written);
  /// Drops pages from `count` on.
  void shrink(Index count);

 private:
  using Page = std::shared_ptr<std::byte>;
  Page allocate() const;

  Index page_bytes_;
  std::vector<Page> pages_;
  std::vector<std::byte*> memory_;  // of each page
};

}  // namespace hsattn
