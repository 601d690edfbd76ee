#include "hsattn/plan/options.h"

#include <algorithm>
#include <array>
#include <utility>

#include "hsattn/base/error.h"
#include "hsattn/plan/patterns/patterns.h"

namespace hsattn {
namespace {

constexpr std::array<std::pair<Pooling, const char*>, 2> kPoolingNames{
    {{Pooling::kMean, "mean"}, {Pooling::kMax, "max"}}};

constexpr std::array<std::pair<const char*, HsaOptions (*)()>, 4> kPresets{{{"any_model", HsaOptions::any_model},
                                                                            {"training", HsaOptions::training},
                                                                            {"pretrained", HsaOptions::pretrained},
                                                                            {"paper", HsaOptions::paper}}};

constexpr Index kMostTokens = Index{1} << 40;  // of one sequence; larger budgets are refused as typing errors

void check_budget(const char* name, Index value, Index smallest) {
  check(value >= smallest && value <= kMostTokens, "options: ", name, " is ", value, "; it must be from ", smallest,
        " to 2^40");
}

[[noreturn]] void throw_unknown(const char* option, const std::string& found, const std::vector<std::string>& names) {
  std::string known;
  for (const std::string& name : names) known += known.empty() ? name : ", " + name;
  throw InvalidArgument(concat("options: ", option, " is '", found, "'; it must be one of ", known));
}

}  // namespace

const char* name_of(Pattern pattern) { return entry_of(pattern).name; }

const char* name_of(Pooling pooling) {
  for (const auto& [value, name] : kPoolingNames) {
    if (value == pooling) return name;
  }
  return "unknown";
}

std::vector<std::string> pattern_names() {
  std::vector<std::string> names;
  for (const PatternEntry& entry : pattern_table()) names.emplace_back(entry.name);
  return names;
}

Pattern pattern_from_name(const std::string& name) {
  for (const PatternEntry& entry : pattern_table()) {
    if (name == entry.name) return entry.pattern;
  }
  throw_unknown("pattern", name, pattern_names());
}

Pooling pooling_from_name(const std::string& name) {
  std::vector<std::string> names;
  for (const auto& [value, known] : kPoolingNames) {
    if (name == known) return value;
    names.emplace_back(known);
  }
  throw_unknown("pooling", name, names);
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const auto& [name, options] : kPresets) names.emplace_back(name);
  return names;
}

HsaOptions preset_from_name(const std::string& name) {
  for (const auto& [known, options] : kPresets) {
    if (name == known) return options();
  }
  throw_unknown("preset", name, preset_names());
}

void check_options(const PlanOptions& options) {
  const HsaOptions& o = options.hsa;
  check_budget("window", o.window, 0);
  check_budget("top_k", o.top_k, 1);
  for (const Index own : o.head_top_k) check_budget("a head's top_k", own, 1);
  check_budget("candidates", o.candidates, 0);
  check_budget("sinks", o.sinks, 0);
  check_budget("top_nodes", o.top_nodes, 1);
  check_budget("beam", o.beam, 0);
  check_budget("dense_until", o.dense_until, -1);
  check_budget("min_top_k", o.min_top_k, 1);
  check_budget("stride", o.stride, 0);
  check_budget("dilation", o.dilation, 1);
  check_budget("pattern_seed", o.pattern_seed, 0);
  check(o.block >= 1 && o.block <= 64 && (o.block & (o.block - 1)) == 0, "options: block is ", o.block,
        "; it must be a power of two from 1 to 64");
  check(o.node == 0 || (o.node >= o.block && o.node <= 64 && (o.node & (o.node - 1)) == 0), "options: node is ", o.node,
        ", block is ", o.block, "; node must be 0 (block) or a power of two from block to 64");
  const bool searches = options.pattern == Pattern::kHsa;
  const Index top_k = o.largest_top_k();
  check(!searches || o.node <= o.block || o.candidates > top_k, "options: node is ", o.node, ", block is ", o.block,
        "; to keep single blocks of a node takes rescoring, and candidates, ", o.candidates, ", must be above top_k, ",
        top_k);
  check(!searches || o.node <= o.block || !o.far_field, "options: node is ", o.node, ", block is ", o.block,
        ", and the far field is on; it is made of whole nodes, so node must be 0 or block");
  check(o.tail == 0 || (o.tail >= 1e-6 && o.tail <= 1), "options: tail is ", o.tail,
        "; it must be 0 (off) or a share from a millionth to 1");
  check(!searches || o.tail == 0 || o.candidates > top_k, "options: tail is ", o.tail,
        "; it is what rescoring rejects, so candidates, ", o.candidates, ", must be above top_k, ", top_k);
  check(!searches || o.tail == 0 || !o.far_field, "options: tail is ", o.tail,
        ", and the far field is on; what is rejected would be seen twice, so one of them must be off");
  check(o.parts >= 1 && o.parts <= 64 && (o.parts & (o.parts - 1)) == 0, "options: parts is ", o.parts,
        "; it must be a power of two from 1 to 64");
  check(!searches || o.parts <= std::max(o.node, o.block), "options: parts is ", o.parts, ", node is ",
        std::max(o.node, o.block), "; a part is at least one token, so parts must be at most node");
  check(o.levels >= 0 && o.levels <= 6, "options: levels is ", o.levels, "; it must be 0 (auto) or 1 to 6");
  check(o.mass == 0 || (o.mass >= 1e-6 && o.mass <= 1), "options: mass is ", o.mass,
        "; it must be 0 (off) or a share from a millionth to 1");
}

}  // namespace hsattn
