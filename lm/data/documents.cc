#include "lm/data/documents.h"

#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "lm/data/files.h"

namespace hsattn::lm {
namespace {

namespace fs = std::filesystem;

bool has_suffix(const std::string& name, const char* suffix) { return name.ends_with(suffix); }

std::string read_gzip(const std::string& path) {
  errno = 0;
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose_r);
  if (!file) throw FileError(concat("cannot read ", path, ": ", std::strerror(errno)));
  std::string text;
  std::vector<char> buffer(1 << 18);
  for (;;) {
    const int got = gzread(file.get(), buffer.data(), static_cast<unsigned>(buffer.size()));
    if (got > 0) text.append(buffer.data(), static_cast<std::size_t>(got));
    if (got == static_cast<int>(buffer.size())) continue;
    int code = Z_OK;
    const char* message = gzerror(file.get(), &code);  // a cut file reads short, with Z_BUF_ERROR
    if (got < 0 || (code != Z_OK && code != Z_STREAM_END)) {
      throw FileError(concat("cannot decompress ", path, ": ", code == Z_ERRNO ? std::strerror(errno) : message));
    }
    if (gzdirect(file.get()) != 0 && !text.empty()) throw FileError("cannot decompress " + path + ": no gzip file");
    return text;
  }
}

void add_json_lines(const std::string& path, const std::string& text, const std::string& field, Documents& out) {
  std::size_t begin = 0;
  for (Index line = 1; begin < text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row(text.data() + begin, end - begin);
    begin = end + 1;
    if (row.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const auto object = nlohmann::json::parse(row, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object() || !object.contains(field) || !object[field].is_string()) {
      throw FileError(concat(path, ", line ", line, ": not a JSON object with the string \"", field, "\""));
    }
    out.items.push_back({concat(path, "#", line), object[field].get<std::string>()});
  }
}

void add_file(const std::string& path, const std::string& field, bool from_folder, Documents& out) {
  const bool compressed = has_suffix(path, ".gz");
  std::string text = compressed ? read_gzip(path) : read_file(path);
  const std::string name = compressed ? path.substr(0, path.size() - 3) : path;
  if (from_folder && text.substr(0, 8192).find('\0') != std::string::npos) {
    out.skipped.push_back(path);
  } else if (has_suffix(name, ".jsonl")) {
    add_json_lines(path, text, field, out);
  } else if (!text.empty()) {
    out.items.push_back({path, std::move(text)});
  }
}

}  // namespace

std::vector<std::string> files_under(const std::string& folder) {
  std::vector<std::string> files;
  try {
    for (fs::recursive_directory_iterator it(folder), end; it != end; ++it) {
      const bool hidden = it->path().filename().string().starts_with('.');
      if (hidden && it->is_directory()) it.disable_recursion_pending();
      if (!hidden && it->is_regular_file()) files.push_back(it->path().string());
    }
  } catch (const fs::filesystem_error& error) {
    throw FileError(concat("cannot read the folder ", folder, ": ", error.code().message()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

Documents read_documents(const std::vector<std::string>& paths, const std::string& field) {
  Documents out;
  for (const std::string& path : paths) {
    std::error_code ignored;
    if (fs::is_directory(path, ignored)) {
      for (const std::string& file : files_under(path)) add_file(file, field, true, out);
    } else {
      add_file(path, field, false, out);
    }
  }
  if (out.items.empty() && !paths.empty()) {
    throw FileError(concat("no text in ", paths.front(), paths.size() > 1 ? " and the others" : ""));
  }
  return out;
}

}  // namespace hsattn::lm
