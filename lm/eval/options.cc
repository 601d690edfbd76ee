#include "lm/eval/options.h"

#include "hsattn/base/error.h"

namespace hsattn::lm {
namespace {

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
  check(named.preset == AttentionOptions().preset && named.pooling == untouched.pooling && named.hsa == untouched.hsa &&
            same_baselines(named, untouched),
        "budgets are given, but attention is as trained; name it too, such as --attention hsa");
  return trained;
}

}  // namespace hsattn::lm
