// Memory that cannot be had: allocations that fail one by one, and children with little memory.
#pragma once

#include <functional>
#include <string>

#include "hsattn/base/types.h"

#if !defined(__SANITIZE_ADDRESS__)  // whose own operators would mix with those of memory.cc
#define HSATTN_CAN_FAIL_ALLOCATIONS 1
#else
#define HSATTN_CAN_FAIL_ALLOCATIONS 0
#endif
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which have use for more
#define HSATTN_CAN_LIMIT_MEMORY 1
#else
#define HSATTN_CAN_LIMIT_MEMORY 0
#endif

namespace hsattn::testing {

/// Calls `call` again and again, with the first allocation by operator new failing, then the second and so on, until it
/// returns; how often it failed. Each failure must be an OutOfMemory that says so; anything else it throws is let out.
long failures_until_success(const std::function<void()>& call);

/// From here on this process gets no more than `bytes` of memory besides what is in use.
void limit_memory(Index bytes);

/// Runs `body` in a child, and says what went wrong there: "" if it returned "".
std::string in_a_child(const std::function<std::string()>& body);

/// What the OutOfMemory that `call` throws says, or "no error".
std::string out_of_memory_message(const std::function<void()>& call);

}  // namespace hsattn::testing
