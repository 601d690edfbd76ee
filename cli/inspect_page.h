// The report of `hsattn inspect` as one self-contained HTML page.
#pragma once

#include <string>

#include "lm/eval/inspect.h"

namespace hsattn::cli {

std::string inspect_page(const lm::InspectReport& report);

}  // namespace hsattn::cli
