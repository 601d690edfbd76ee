// Errors. The library throws; it never prints, aborts or exits.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace hsattn {

/// Base of all errors thrown by the library. Messages say who, what was found, what is right.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller passed shapes, types or options that do not fit together.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// The request makes sense but nothing here can run it.
class Unsupported : public Error {
 public:
  using Error::Error;
};

/// Memory could not be had; the message names the size.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

/// A file could not be read, written or understood; the message names it and says why.
class FileError : public Error {
 public:
  using Error::Error;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

/// Throws InvalidArgument with the concatenated parts unless `ok`.
template <class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) throw InvalidArgument(concat(parts...));
}

}  // namespace hsattn
