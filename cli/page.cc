#include "cli/page.h"

namespace hsattn::cli {
namespace {

constexpr const char* kStyle = R"(<style>
:root { --paper: #fdfcfa; --ink: #22252b; --faint: #6b7078; --line: #dcdad4; --near: #2f6f9f; --block: #d2691e; --far: #5a8f5a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17191d; --ink: #e4e4e0; --faint: #9a9fa8; --line: #34373d; --near: #6cb0e0; --block: #f0985a; --far: #8cc48c; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p, td, th { color: var(--ink); } .faint { color: var(--faint); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .15rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
svg { width: 100%; min-width: 30rem; height: auto; }
svg text { fill: var(--faint); font: 10px system-ui, sans-serif; }
.near { fill: var(--near); } .block { fill: var(--block); } .far { fill: var(--far); }
.legend { white-space: nowrap; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .9em; }
</style></head><body>
)";

}  // namespace

std::string page_head(const std::string& title) {
  return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
         "content=\"width=device-width, initial-scale=1\">\n<title>" +
         escaped(title) + "</title>\n" + kStyle;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

}  // namespace hsattn::cli
