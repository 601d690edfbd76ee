// The one door to torch: precompiled, because it costs 12 s per file. Only .cc files of lm/ and headers that they alone
// include may include it.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/torch.h>
