// What was measured so far, in a file, so that an interrupted search for budgets goes on where it was. No torch here.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace hsattn::lm {

class Measurements {
 public:
  /// Reads the file, if it is one of the same `fingerprint` (what was measured, and on what). Anything else is replaced
  /// by the first add().
  Measurements(std::string path, std::string fingerprint);

  /// Null if it was not measured.
  const std::vector<double>* find(const std::string& name) const;
  /// Writes the file anew. Throws FileError.
  void add(const std::string& name, const std::vector<double>& values);
  /// Forgets everything: what the file holds was measured on something else.
  void clear() { values_.clear(); }
  /// Removes the file, which has served.
  void remove() const;

 private:
  std::string path_, fingerprint_;
  std::map<std::string, std::vector<double>> values_;
};

}  // namespace hsattn::lm
