// bf16 autocast on the CPU for a scope.
#pragma once

#include "lm/model/torch.h"

namespace hsattn::lm {

class Autocast {
 public:
  explicit Autocast(bool on) : was_(at::autocast::is_autocast_enabled(at::kCPU)) {
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::set_autocast_enabled(at::kCPU, on);
    at::autocast::increment_nesting();
  }
  ~Autocast() {
    // Weights cast to bf16 are cached while autocast is on; the last scope drops them, before the weights change.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(at::kCPU, was_);
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool was_;
};

}  // namespace hsattn::lm
