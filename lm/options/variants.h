// Options as text where there is no command line: "hsa:levels=3:far_field=false". No torch here.
#pragma once

#include <string>

#include "lm/model/config.h"

namespace hsattn::lm {

/// Sets one option by its name. Throws InvalidArgument: no such option, or not a value of its type.
void set_option(Options& options, const std::string& name, const std::string& value);

/// An attention's name, and after colons what differs from `base`. Throws InvalidArgument.
AttentionOptions attention_variant(const std::string& text, const AttentionOptions& base);

}  // namespace hsattn::lm
