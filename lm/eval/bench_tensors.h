// Tensors to time attention on.
#pragma once

#include <string>

#include "lm/eval/bench_cases.h"
#include "lm/model/torch.h"

namespace hsattn::lm {

struct BenchTensors {
  at::Tensor q, k, v, dout;  // [B, H, n, d], [B, Hkv, n, d] twice, [B, H, n, d]; of the case's type
  at::Tensor features;       // performer's
};

/// Made or read as c.queries says. Throws FileError for recorded tensors that are missing, damaged or too short.
BenchTensors bench_tensors(const BenchCase& c);

/// A .npy array of float16, float32 or float64, C order, as float32. Sizes are checked before memory is touched.
at::Tensor read_npy(const std::string& path);

}  // namespace hsattn::lm
