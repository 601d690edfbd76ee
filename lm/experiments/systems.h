// The systems that are compared, and the variants of HSA: one row each. No torch here.
#pragma once

#include <string>
#include <vector>

#include "lm/experiments/presets.h"

namespace hsattn::lm {

/// How a system's cost and its view of the past are bounded.
enum class SystemKind {
  kFull,    ///< the whole past, by different kernels
  kSparse,  ///< `Budget::attended()` tokens of it
  kLinear,  ///< all of it, approximated at linear cost
};

struct System {
  const char* name;  ///< of --attention
  SystemKind kind;
  const char* source;
};

/// Full attention first, whose models other kernels read; ours last.
const std::vector<System>& systems();

/// False for the systems that this program was built without.
bool knows_attention(const std::string& name);
bool knows_pooling(const std::string& name);

/// The preset of HsaOptions that a budget of HSA starts from.
const char* preset_of_hsa(const Budget& budget);

/// What the command line says about a system; all sparse ones attend the same number of tokens.
std::vector<std::string> attention_arguments(const std::string& name, const Budget& budget);

/// HSA with some options changed.
struct Variant {
  std::string name;
  std::vector<std::string> changes;  ///< "levels=3": options as --levels 3
  const char* shows;
};

/// The variant that table 5.1 trains.
constexpr const char* kTable51 = "table51";

/// Of the paper's form: levels 1 to 6 and auto.
const std::vector<Variant>& level_variants();
/// Of the paper's form: the four poolings, far field, rescoring, block sizes, a larger budget at first.
std::vector<Variant> ablation_variants(const Preset& preset);

}  // namespace hsattn::lm
