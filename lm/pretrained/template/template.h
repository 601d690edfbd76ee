// The part of Jinja that chat templates need. What is outside of it is refused, by name.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "lm/pretrained/template/syntax.h"

namespace hsattn::lm::jinja {

/// A template, as transformers sets Jinja up. Not trusted: what it may take of time, memory and stack is bounded.
class Template {
 public:
  /// Throws FileError or Unsupported; messages begin with `what` and name the line.
  Template(std::string_view text, const std::string& what);

  /// `variables`: what the template may name. Throws as the constructor; FileError also for raise_exception(), with its
  /// message.
  std::string render(const Object& variables) const;

 private:
  std::string what_;
  Block block_;
};

}  // namespace hsattn::lm::jinja
