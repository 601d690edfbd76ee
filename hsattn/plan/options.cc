#include "hsattn/plan/options.h"

#include <array>
#include <utility>

#include "hsattn/base/error.h"

namespace hsattn {
namespace {

constexpr std::array<std::pair<Pattern, const char*>, 3> kPatternNames{
    {{Pattern::kFull, "full"}, {Pattern::kLocal, "local"}, {Pattern::kHsa, "hsa"}}};

constexpr Index kMostTokens = Index{1} << 40;  // of one sequence; larger budgets are refused as typing errors

void check_budget(const char* name, Index value, Index smallest) {
  check(value >= smallest && value <= kMostTokens, "options: ", name, " is ", value, "; it must be from ", smallest,
        " to 2^40");
}

}  // namespace

const char* name_of(Pattern pattern) {
  for (const auto& [value, name] : kPatternNames) {
    if (value == pattern) return name;
  }
  return "unknown";
}

Pattern pattern_from_name(const std::string& name) {
  std::string known;
  for (const auto& [value, text] : kPatternNames) {
    if (name == text) return value;
    known += known.empty() ? text : concat(", ", text);
  }
  throw InvalidArgument(concat("options: pattern is '", name, "'; it must be one of ", known));
}

void check_options(const PlanOptions& options) {
  const HsaOptions& o = options.hsa;
  check_budget("window", o.window, 0);
  check_budget("top_k", o.top_k, 1);
  check_budget("candidates", o.candidates, 0);
  check_budget("sinks", o.sinks, 0);
  check_budget("top_nodes", o.top_nodes, 1);
  check_budget("beam", o.beam, 0);
  check_budget("dense_until", o.dense_until, 0);
  check(o.block >= 1 && o.block <= 64 && (o.block & (o.block - 1)) == 0, "options: block is ", o.block,
        "; it must be a power of two from 1 to 64");
  check(o.levels >= 0 && o.levels <= 6, "options: levels is ", o.levels, "; it must be 0 (auto) or 1 to 6");
}

}  // namespace hsattn
