// Whether what is installed works here. No torch in this header.
#pragma once

#include <string>
#include <vector>

namespace hsattn::lm {

struct Finding {
  std::string name, detail;
  bool good = true;
};

/// Processor, kernels, torch, threads, memory, precision, and small answers compared with exact ones in double.
/// Never throws: what fails is a finding.
std::vector<Finding> self_check();

}  // namespace hsattn::lm
