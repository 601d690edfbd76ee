#include "lm/data/document_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos; }

}  // namespace

bool is_article_heading(std::string_view line) {
  return line.size() >= 7 && line.starts_with(" = ") && line.ends_with(" = ") && line[3] != '=' &&
         line[line.size() - 4] != '=';
}

DocumentReader::DocumentReader(Source& source, Cutting cutting, const std::string& field)
    : source_(source), cutting_(cutting), field_(field) {}

bool DocumentReader::next(StreamedDocument& document) {
  for (;;) {
    if (!open_) {
      if (!source_.next()) return false;
      open_ = true, ended_ = false, skip_line_ = false;
      json_ = source_.name().find(".jsonl") != std::string::npos;
      buffer_.clear(), broken_.clear();
      begin_ = seen_ = 0, line_ = count_ = 0;
    }
    document = {};
    if (take(document)) {
      if (document.bad.empty() && is_blank(document.text)) continue;
      if (document.name.empty()) document.name = source_.name();
      document.number = count_++;
      return true;
    }
    if (ended_) {
      open_ = false;
    } else {
      read_more();
    }
  }
}

void DocumentReader::read_more() {
  if (begin_ > 0) buffer_.erase(0, std::exchange(begin_, 0));
  try {
    ended_ = !source_.read(buffer_);
  } catch (const BadFile& error) {
    ended_ = true;
    broken_ = error.what();
  }
}

bool DocumentReader::take(StreamedDocument& document) {
  if (json_) return take_json_line(document);
  return cutting_ == Cutting::kArticles ? take_article(document) : take_whole(document);
}

void DocumentReader::take_until(std::size_t end, StreamedDocument& document) {
  document.text = rest().substr(0, end);
  begin_ += end;
  seen_ = 0;
}

// What stands before the end of the file; of a file that breaks off, nothing but why.
bool DocumentReader::take_rest(StreamedDocument& document) {
  if (!ended_ || (rest().empty() && broken_.empty())) return false;
  if (broken_.empty()) {
    take_until(rest().size(), document);
    return true;
  }
  document.bad = std::exchange(broken_, "");
  begin_ = buffer_.size();
  return true;
}

bool DocumentReader::take_whole(StreamedDocument& document) {
  if (rest().size() <= kLongestPiece) return take_rest(document);
  std::size_t end = rest().rfind('\n', kLongestPiece - 1);
  end = end == std::string_view::npos ? kLongestPiece : end + 1;
  while ((static_cast<unsigned char>(rest()[end]) & 0xc0) == 0x80 && end > 1) --end;  // not inside a character
  take_until(end, document);
  return true;
}

// A heading of the first level has a blank line on both sides; the document before it ends where it begins.
bool DocumentReader::take_article(StreamedDocument& document) {
  const std::string_view text = rest();
  for (std::size_t line = seen_;;) {
    const std::size_t end = text.find('\n', line);
    if (end == std::string_view::npos) break;
    if (is_article_heading(text.substr(line, end - line)) && !is_blank(text.substr(0, line))) {
      const std::size_t after = text.find('\n', end + 1);
      if (after == std::string_view::npos && !ended_) break;  // the line behind it decides
      const std::size_t before = line >= 2 ? text.rfind('\n', line - 2) : std::string_view::npos;
      const std::size_t previous = before == std::string_view::npos ? 0 : before + 1;
      const bool alone = is_blank(text.substr(previous, line - previous)) &&
                         is_blank(text.substr(end + 1, std::min(after, text.size()) - end - 1));
      if (alone) {
        take_until(line, document);
        return true;
      }
    }
    line = seen_ = end + 1;
  }
  return text.size() > kLongestPiece ? take_whole(document) : take_rest(document);
}

bool DocumentReader::take_json_line(StreamedDocument& document) {
  const std::string_view text = rest();
  std::size_t end = text.find('\n', seen_);
  if (end == std::string_view::npos) {
    seen_ = text.size();
    if (text.size() > kLongestLine && !skip_line_) {
      skip_line_ = true;
      document.name = concat(source_.name(), "#", line_ + 1);
      document.bad = concat("a line of more than ", kLongestLine, " bytes");
      return true;
    }
    if (skip_line_) begin_ = buffer_.size(), seen_ = 0;
    if (!ended_ || !broken_.empty() || rest().empty()) return ended_ && !broken_.empty() && take_rest(document);
    end = text.size();
  }
  const std::string_view row = text.substr(0, end);
  begin_ += std::min(end + 1, text.size());
  seen_ = 0;
  ++line_;
  if (std::exchange(skip_line_, false) || is_blank(row)) return true;
  document.name = concat(source_.name(), "#", line_);
  const auto object = nlohmann::json::parse(row, nullptr, /*allow_exceptions=*/false);
  if (object.is_object() && object.contains(field_) && object[field_].is_string()) {
    document.text = object[field_].get<std::string>();
  } else {
    document.bad = concat("not a JSON object with the string \"", field_, "\"");
  }
  return true;
}

}  // namespace hsattn::lm
