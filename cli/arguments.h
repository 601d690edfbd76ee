// The command line: options to structs, and help from the same structs.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "hsattn/base/error.h"
#include "lm/options/option_visitor.h"

namespace hsattn::cli {

/// The command line makes no sense: exit code 2, as with every InvalidArgument.
class UsageError : public InvalidArgument {
 public:
  using InvalidArgument::InvalidArgument;
};

using Arguments = std::vector<std::string>;

/// Sets options from `--name value`, `--name=value`, `--flag` and `--no-flag`; - and _ are the same in names. Words
/// that belong to no option go to the list option `words`, if it is named. Throws UsageError.
void parse_arguments(const Arguments& arguments, lm::Options& options, const char* words = nullptr);

bool asks_for_help(const Arguments& arguments);

/// One line per option: name, default, meaning.
void print_options(lm::Options& options, std::ostream& out);

}  // namespace hsattn::cli
