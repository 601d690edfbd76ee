#include "hsattn/plan/options.h"

#include <array>
#include <utility>

#include "hsattn/base/error.h"

namespace hsattn {
namespace {

constexpr std::array<std::pair<Pattern, const char*>, 3> kPatternNames{
    {{Pattern::kFull, "full"}, {Pattern::kLocal, "local"}, {Pattern::kHsa, "hsa"}}};
constexpr std::array<std::pair<Pooling, const char*>, 2> kPoolingNames{
    {{Pooling::kMean, "mean"}, {Pooling::kMax, "max"}}};

constexpr Index kMostTokens = Index{1} << 40;  // of one sequence; larger budgets are refused as typing errors

void check_budget(const char* name, Index value, Index smallest) {
  check(value >= smallest && value <= kMostTokens, "options: ", name, " is ", value, "; it must be from ", smallest,
        " to 2^40");
}

template <class Names, class Value>
const char* name_in(const Names& names, Value wanted) {
  for (const auto& [value, name] : names) {
    if (value == wanted) return name;
  }
  return "unknown";
}

template <class Names>
auto value_in(const Names& names, const char* option, const std::string& wanted) {
  std::string known;
  for (const auto& [value, name] : names) {
    if (wanted == name) return value;
    known += known.empty() ? name : concat(", ", name);
  }
  throw InvalidArgument(concat("options: ", option, " is '", wanted, "'; it must be one of ", known));
}

}  // namespace

const char* name_of(Pattern pattern) { return name_in(kPatternNames, pattern); }
const char* name_of(Pooling pooling) { return name_in(kPoolingNames, pooling); }

Pattern pattern_from_name(const std::string& name) { return value_in(kPatternNames, "pattern", name); }
Pooling pooling_from_name(const std::string& name) { return value_in(kPoolingNames, "pooling", name); }

void check_options(const PlanOptions& options) {
  const HsaOptions& o = options.hsa;
  check_budget("window", o.window, 0);
  check_budget("top_k", o.top_k, 1);
  check_budget("candidates", o.candidates, 0);
  check_budget("sinks", o.sinks, 0);
  check_budget("top_nodes", o.top_nodes, 1);
  check_budget("beam", o.beam, 0);
  check_budget("dense_until", o.dense_until, 0);
  check_budget("min_top_k", o.min_top_k, 1);
  check(o.block >= 1 && o.block <= 64 && (o.block & (o.block - 1)) == 0, "options: block is ", o.block,
        "; it must be a power of two from 1 to 64");
  check(o.levels >= 0 && o.levels <= 6, "options: levels is ", o.levels, "; it must be 0 (auto) or 1 to 6");
  check(o.mass >= 0 && o.mass <= 1, "options: mass is ", o.mass, "; it must be 0 (off) or a share of at most 1");
}

}  // namespace hsattn
