#include "lm/eval/options.h"

#include "hsattn/base/error.h"

namespace hsattn::lm {
AttentionOptions choose_attention(const AttentionOptions& named, const AttentionOptions& trained) {
  if (named.attention != kAsTrained) {
    check_attention_options(named);
    return named;
  }
  AttentionOptions untouched;
  untouched.preset = named.preset;
  untouched.apply_preset();
  check(named.preset == AttentionOptions().preset && named.pooling == untouched.pooling && named.hsa == untouched.hsa,
        "budgets are given, but attention is as trained; name it too, such as --attention hsa");
  return trained;
}

}  // namespace hsattn::lm
