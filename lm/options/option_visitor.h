// Options are named once: a struct shows them to a visitor, and visitors parse, print help, read and write JSON.
#pragma once

#include <string>
#include <vector>

#include "hsattn/base/types.h"

namespace hsattn::lm {

class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;
  virtual void operator()(const char* name, std::string& value, const char* help) = 0;
  virtual void operator()(const char* name, std::vector<std::string>& value, const char* help) = 0;
  virtual void operator()(const char* name, std::vector<Index>& value, const char* help) = 0;
  virtual void operator()(const char* name, Index& value, const char* help) = 0;
  virtual void operator()(const char* name, double& value, const char* help) = 0;
  virtual void operator()(const char* name, bool& value, const char* help) = 0;
};

struct Options {
  virtual ~Options() = default;
  virtual void visit(OptionVisitor& option) = 0;
  /// Called after a first reading, before a second: sets what a preset decides, so that what is named wins.
  virtual void apply_preset() {}
};

}  // namespace hsattn::lm
