// A template's text into words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hsattn::lm::jinja {

struct Word {
  enum class Kind {
    kText,
    kPrintBegin,
    kPrintEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,
    kInteger,
    kFloat,
    kSign,
    kEnd
  };
  Kind kind;
  std::string text;  ///< of a string what it stands for, else as it is written
  int line;
};

/// White space as transformers sets Jinja up (trim_blocks, lstrip_blocks): a line break behind a block goes, and so
/// does white space before a block that begins a line; `-` inside a tag takes all white space on its side, `+` leaves
/// it. The last word is kEnd. Throws FileError with the line.
std::vector<Word> words_of_template(std::string_view text);

}  // namespace hsattn::lm::jinja
