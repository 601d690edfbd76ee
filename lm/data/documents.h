// Documents out of files: plain text, .gz, .jsonl, folders of them.
#pragma once

#include <string>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

struct Document {
  std::string name;  ///< path, with #line for a document of a .jsonl file
  std::string text;  ///< bytes as they are
};

struct Documents {
  std::vector<Document> items;       ///< in order of paths, then lines
  std::vector<std::string> skipped;  ///< files in folders that hold a zero byte near their start: no text
};

/// Reads files and, in order of name, all files under folders (hidden ones left out). A file is one document; a .jsonl
/// file has one a line, the string `field` of each object. Names ending in .gz are decompressed.
/// Throws FileError: missing or damaged files, lines that are no objects with the field, nothing found.
Documents read_documents(const std::vector<std::string>& paths, const std::string& field);

/// All files under a folder, in order of their paths; hidden ones left out. Throws FileError.
std::vector<std::string> files_under(const std::string& folder);

}  // namespace hsattn::lm
