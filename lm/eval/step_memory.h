// What a training step needs in memory, estimated before it runs. No torch here.
#pragma once

#include <string>

#include "lm/model/config.h"

namespace hsattn::lm {

/// GiB that a step of `config` with the attention `attention` takes on top of what a process with the model holds
/// already; rather too much than too little.
double step_memory_gib(const ModelConfig& config, const std::string& attention, Index batch, Index tokens,
                       bool checkpointing);

}  // namespace hsattn::lm
