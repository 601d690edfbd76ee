// Options to and from JSON, for run folders and for the metadata of a model file.
#pragma once

#include <nlohmann/json.hpp>

#include "lm/options/option_visitor.h"

namespace hsattn::lm {

/// An object with one entry per option, in the order of visit().
nlohmann::ordered_json to_json(Options& options);

/// Sets the options that `object` has; others stay. `what` names the source in errors (FileError): unknown names, wrong
/// types.
void from_json(const nlohmann::ordered_json& object, Options& options, const std::string& what);

/// Parses the JSON text of a file. Throws FileError.
nlohmann::ordered_json read_json(const std::string& path);

}  // namespace hsattn::lm
