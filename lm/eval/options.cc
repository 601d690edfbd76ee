#include "lm/eval/options.h"

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

bool same_budgets(const HsaOptions& a, const HsaOptions& b) {
  return a.window == b.window && a.top_k == b.top_k && a.candidates == b.candidates && a.block == b.block &&
         a.sinks == b.sinks && a.top_nodes == b.top_nodes && a.beam == b.beam && a.dense_until == b.dense_until &&
         a.far_field == b.far_field && a.levels == b.levels && a.mass == b.mass && a.min_top_k == b.min_top_k;
}

bool same_baselines(const AttentionOptions& a, const AttentionOptions& b) {
  return a.features == b.features && a.feature_seed == b.feature_seed && a.redraw == b.redraw && a.rank == b.rank &&
         a.segment == b.segment && a.longest == b.longest && a.sharing == b.sharing;
}

}  // namespace

AttentionOptions choose_attention(const AttentionOptions& named, const AttentionOptions& trained) {
  if (named.attention != kAsTrained) {
    check_attention_options(named);
    return named;
  }
  AttentionOptions untouched;
  untouched.preset = named.preset;
  untouched.apply_preset();
  check(named.preset == AttentionOptions().preset && named.pooling == untouched.pooling &&
            same_budgets(named.hsa, untouched.hsa) && same_baselines(named, untouched),
        "budgets are given, but attention is as trained; name it too, such as --attention hsa");
  return trained;
}

}  // namespace hsattn::lm
