// What the HTML pages that the program writes have in common: one file each, nothing loaded from elsewhere.
#pragma once

#include <string>

namespace hsattn::cli {

/// Everything up to and with <body>.
std::string page_head(const std::string& title);
/// Text that is safe between tags and in quoted attributes.
std::string escaped(const std::string& text);

}  // namespace hsattn::cli
