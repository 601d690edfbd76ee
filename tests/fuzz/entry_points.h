// What reads files that others wrote, as functions of their bytes: for the fuzzer, and for the tests that run what it
// found.
#pragma once

#include <string>
#include <string_view>

namespace hsattn::lm::fuzz {

struct EntryPoint {
  const char* name;  ///< of the folder in corpus/, too
  /// Reads `bytes`. Returns the message with which they were refused, or nothing. Whatever is thrown that is no Error
  /// of the library, and a message that is not one printable line, is a bug.
  std::string (*read)(std::string_view bytes);
};

extern const EntryPoint kEntryPoints[4];

/// Throws std::out_of_range.
const EntryPoint& entry_point(std::string_view name);

}  // namespace hsattn::lm::fuzz
