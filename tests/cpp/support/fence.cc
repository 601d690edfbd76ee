#include "support/fence.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>

#include "hsattn/base/math.h"

namespace hsattn::testing {

constexpr unsigned char kUntouched = 0xff;

Fence::Fence(Index bytes, Touching side) : bytes_(bytes) {
  const Index page = sysconf(_SC_PAGESIZE);
  const Index inner = round_up(std::max<Index>(bytes, 1), page);
  map_bytes_ = inner + 2 * page;
  void* map = mmap(nullptr, static_cast<std::size_t>(map_bytes_), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw std::runtime_error("Fence: mmap failed");
  map_ = static_cast<unsigned char*>(map);
  if (mprotect(map_ + page, static_cast<std::size_t>(inner), PROT_READ | PROT_WRITE) != 0) {
    throw std::runtime_error("Fence: mprotect failed");
  }
  std::memset(map_ + page, kUntouched, static_cast<std::size_t>(inner));
  data_ = map_ + page + (side == Touching::kFirstPage ? 0 : inner - bytes);
}

Fence::~Fence() { munmap(map_, static_cast<std::size_t>(map_bytes_)); }

bool Fence::rest_is_untouched(const std::vector<bool>& used) const {
  const Index page = sysconf(_SC_PAGESIZE);
  for (const unsigned char* at = map_ + page; at < map_ + map_bytes_ - page; ++at) {
    const Index place = at - data_;
    const bool is_used = place >= 0 && place < bytes_ && used[static_cast<std::size_t>(place)];
    if (!is_used && *at != kUntouched) return false;
  }
  return true;
}

}  // namespace hsattn::testing
