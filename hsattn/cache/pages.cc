#include "hsattn/cache/pages.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "hsattn/base/buffer.h"

namespace hsattn {

PageList::Page PageList::allocate() const {
  Buffer<std::byte> page = allocate_buffer<std::byte>(page_bytes_, "cache: a page");
  return Page(page.release(), FreeBuffer());
}

void PageList::prepare(Index count, Index first_written) {
  try {
    if (count > static_cast<Index>(pages_.capacity())) {  // twice as many, as growing by one each time would copy all
      pages_.reserve(static_cast<std::size_t>(2 * count));
      memory_.reserve(pages_.capacity());
    }
    for (Index i = first_written; i < std::min(count, this->count()); ++i) {
      if (!shared(i)) continue;
      Page copy = allocate();
      std::memcpy(copy.get(), memory_[static_cast<std::size_t>(i)], static_cast<std::size_t>(page_bytes_));
      memory_[static_cast<std::size_t>(i)] = copy.get();
      pages_[static_cast<std::size_t>(i)] = std::move(copy);
    }
    while (this->count() < count) {
      Page page = allocate();
      std::memset(page.get(), 0, static_cast<std::size_t>(page_bytes_));
      pages_.push_back(page);
      memory_.push_back(page.get());
    }
  } catch (const std::bad_alloc&) {
    throw OutOfMemory("cache: no memory for the list of pages");
  }
}

void PageList::shrink(Index count) {
  if (count >= this->count()) return;
  pages_.resize(static_cast<std::size_t>(count));
  memory_.resize(static_cast<std::size_t>(count));
}

}  // namespace hsattn
