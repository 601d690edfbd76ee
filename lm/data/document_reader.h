// Documents out of the files of a source, one after another, each held in memory alone.
#pragma once

#include <string>
#include <string_view>

#include "hsattn/base/types.h"
#include "lm/data/sources.h"

namespace hsattn::lm {

/// How a text is cut into documents.
enum class Cutting {
  kWhole,     ///< a file is one, in pieces of kLongestPiece, cut at ends of lines, if it is longer
  kArticles,  ///< WikiText: one begins at each heading ` = Title = ` of the first level
};
constexpr std::size_t kLongestPiece = 4 << 20;  ///< bytes
constexpr std::size_t kLongestLine = 64 << 20;  ///< bytes of a line of JSON

struct StreamedDocument {
  std::string name, text;
  std::string bad;   ///< why it cannot be used; empty: it can
  Index number = 0;  ///< among all, bad ones too, of its file inside the source
};

class DocumentReader {
 public:
  /// `field` is that of lines of JSON, in files with .jsonl in their name.
  DocumentReader(Source& source, Cutting cutting, const std::string& field);

  /// Texts of white space alone are passed over. False: the source is read to its end.
  bool next(StreamedDocument& document);

 private:
  bool take(StreamedDocument& document);
  bool take_whole(StreamedDocument& document);
  bool take_article(StreamedDocument& document);
  bool take_json_line(StreamedDocument& document);
  bool take_rest(StreamedDocument& document);
  void take_until(std::size_t end, StreamedDocument& document);
  std::string_view rest() const { return std::string_view(buffer_).substr(begin_); }
  void read_more();

  Source& source_;
  const Cutting cutting_;
  const std::string field_;
  bool open_ = false, ended_ = false, json_ = false, skip_line_ = false;
  std::string broken_;     // why the rest of the file cannot be read
  std::string buffer_;     // what is read and not yet taken, from begin_ on
  std::size_t begin_ = 0;  // of the next document
  std::size_t seen_ = 0;   // up to here, from begin_ on, no document ends
  Index line_ = 0, count_ = 0;
};

/// True for a line, without its end, such as ` = Title = `; headings of lower levels have more signs.
bool is_article_heading(std::string_view line);

}  // namespace hsattn::lm
