#include "hsattn/plan/patterns/patterns.h"

#include "hsattn/base/error.h"

namespace hsattn {

// Each in the file of its name.
void list_strided(const Place& place, const HsaOptions& options, Index most, Blocks& out);
void list_fixed(const Place& place, const HsaOptions& options, Index most, Blocks& out);
void list_longformer(const Place& place, const HsaOptions& options, Index most, Blocks& out);
void list_bigbird(const Place& place, const HsaOptions& options, Index most, Blocks& out);

namespace {

constexpr PatternEntry kPatterns[] = {
    {.pattern = Pattern::kFull, .name = "full"},
    {.pattern = Pattern::kLocal, .name = "local"},
    {.pattern = Pattern::kHsa, .name = "hsa", .lists = true},
    {.pattern = Pattern::kSparseTransformer, .name = "sparse_transformer", .lists = true, .rule = list_strided},
    {.pattern = Pattern::kSparseTransformerFixed,
     .name = "sparse_transformer_fixed",
     .lists = true,
     .rule = list_fixed},
    {.pattern = Pattern::kLongformer,
     .name = "longformer",
     .lists = true,
     .rule = list_longformer,
     .global_tokens = true},
    {.pattern = Pattern::kBigBird, .name = "bigbird", .lists = true, .rule = list_bigbird, .global_tokens = true},
};

}  // namespace

std::span<const PatternEntry> pattern_table() { return kPatterns; }

const PatternEntry& entry_of(Pattern pattern) {
  for (const PatternEntry& entry : kPatterns) {
    if (entry.pattern == pattern) return entry;
  }
  throw InvalidArgument(concat("options: pattern is ", static_cast<int>(pattern), "; it must be one of Pattern"));
}

}  // namespace hsattn
