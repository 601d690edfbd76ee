// `hsattn eval` of a Hugging Face folder.
#pragma once

#include "cli/commands.h"

namespace hsattn::cli {

int eval_pretrained(const Arguments& arguments, std::ostream& out);
void print_pretrained_eval_options(std::ostream& out);

}  // namespace hsattn::cli
