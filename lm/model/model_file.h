// A model on disk: model.safetensors, its configuration in the metadata.
#pragma once

#include <memory>
#include <string>

#include "lm/model/transformer.h"

namespace hsattn::lm {

void save_model(const std::string& path, const Transformer& model);

/// Reads a model from a .safetensors file, a checkpoint folder, or a run folder (its newest checkpoint).
/// Throws FileError.
std::unique_ptr<Transformer> load_model(const std::string& path);

/// Sets all weights of `model` from a file of the same configuration.
void load_weights(const std::string& path, Transformer& model);

/// The model file that `path` stands for (see load_model).
std::string model_file_of(const std::string& path);

}  // namespace hsattn::lm
