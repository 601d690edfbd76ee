#include "support/memory.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <new>

#include "hsattn/base/error.h"

#if HSATTN_CAN_FAIL_ALLOCATIONS
namespace {

// Allocations by operator new until one fails, once; below 0: none does.
std::atomic<long> allocations_left{-1};

void* allocate(std::size_t bytes) {
  if (allocations_left >= 0 && allocations_left.fetch_sub(1) == 0) throw std::bad_alloc();
  void* memory = std::malloc(bytes > 0 ? bytes : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace hsattn::testing {

#if HSATTN_CAN_FAIL_ALLOCATIONS
long failures_until_success(const std::function<void()>& call) {
  for (long failures = 0;; ++failures) {
    allocations_left = failures;
    try {
      call();
      allocations_left = -1;
      return failures;
    } catch (const OutOfMemory& error) {
      allocations_left = -1;
      check(std::string(error.what()).find("no memory") != std::string::npos, "an OutOfMemory says '", error.what(),
            "'");
    } catch (...) {
      allocations_left = -1;
      throw;
    }
  }
}
#endif

void limit_memory(Index more) {
#if defined(__GLIBC__)
  malloc_trim(0);  // or what tests before have freed could be had
#endif
  std::ifstream statm("/proc/self/statm");
  Index pages = 0;
  for (int field = 0; field < 6; ++field) statm >> pages;  // the sixth: data and stack
  const auto bytes = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE)) + static_cast<rlim_t>(more);
  const rlimit limit{bytes, bytes};
  // Not of addresses: malloc would find room in what it holds of those for other threads.
  if (setrlimit(RLIMIT_DATA, &limit) != 0) _exit(3);
}

std::string in_a_child(const std::function<std::string()>& body) {
  int ends[2];
  if (pipe(ends) != 0) return "no pipe";
  const pid_t child = fork();
  if (child < 0) return "no fork";
  if (child == 0) {
    alarm(60);
    std::string found;
    try {
      found = body();
    } catch (const std::exception& error) {
      found = error.what();
    } catch (...) {
      found = "ended by an unknown exception";
    }
    const auto written = write(ends[1], found.data(), found.size());
    _exit(written == std::ssize(found) ? 0 : 2);
  }
  close(ends[1]);
  std::string found;
  char buffer[256];
  for (auto count = read(ends[0], buffer, sizeof buffer); count > 0; count = read(ends[0], buffer, sizeof buffer)) {
    found.append(buffer, static_cast<std::size_t>(count));
  }
  close(ends[0]);
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? found : concat("child ended with status ", status);
}

std::string out_of_memory_message(const std::function<void()>& call) {
  try {
    call();
  } catch (const OutOfMemory& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace hsattn::testing
