// Files inside files: an input of the user as a sequence of plain byte streams.
#pragma once

#include <memory>
#include <string>

#include "hsattn/base/types.h"
#include "lm/data/files.h"

namespace hsattn::lm {

/// The rest of a file cannot be read; what comes after it can.
class BadFile : public FileError {
 public:
  using FileError::FileError;
};

/// One file of the user, which holds itself or, as an archive, several.
class Source {
 public:
  virtual ~Source() = default;
  /// Goes to the next file inside; what is left of the present one is passed over. False: none is left.
  virtual bool next() = 0;
  /// Appends some bytes of the file inside; false at its end. Throws BadFile.
  virtual bool read(std::string& out) = 0;
  /// Bytes of the user's file read so far.
  virtual Index consumed() const = 0;

  const std::string& name() const { return name_; }
  /// Where the file inside lies: with it, open_source() goes on from there.
  const std::string& position() const { return position_; }

 protected:
  std::string name_, position_;
};

struct SourceOptions {
  bool rows_are_lines = false;  ///< rows of Parquet are lines of one text, not documents
  std::string field = "text";   ///< column of Parquet
};

/// Opens a file: plain and gzip here, what else its first bytes say through Python. `position`, of an earlier source of
/// the same file: starts with the file inside that lies there; empty: with the first. Throws FileError.
std::unique_ptr<Source> open_source(const std::string& path, const SourceOptions& options, const std::string& position);

}  // namespace hsattn::lm
