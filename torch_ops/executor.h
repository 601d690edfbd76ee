// The library's loops on torch's threads.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>

#include "hsattn/base/executor.h"
#include "torch/csrc/stable/ops.h"

namespace hsattn::torch_ops {

inline bool forked = false;  // this process is a child of fork() of one that had loaded the ops
inline const int watching = pthread_atfork(nullptr, nullptr, [] { forked = true; });

/// Obeys torch.set_num_threads. Tasks are handed out one by one, not in equal shares as at::parallel_for would: causal
/// attention makes late tasks heavier.
class TorchExecutor final : public Executor {
 public:
  /// One in a child of fork(): GNU OpenMP, which torch's loops run on, waits there for the parent's threads for ever.
  int threads() const override { return forked ? 1 : static_cast<int>(torch::stable::get_num_threads()); }

  void run(Index tasks, const std::function<void(Index)>& body) override {
    const Index workers = std::min<Index>(threads(), tasks);
    if (workers <= 1) {
      for (Index task = 0; task < tasks; ++task) body(task);
      return;
    }
    std::atomic<Index> next{0};
    std::exception_ptr error;  // torch_parallel_for would lose its message
    std::mutex error_mutex;
    torch::stable::parallel_for(0, workers, 1, [&](Index, Index) {
      try {
        for (Index task = next++; task < tasks; task = next++) body(task);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next = tasks;
      }
    });
    if (error) std::rethrow_exception(error);
  }
};

}  // namespace hsattn::torch_ops
