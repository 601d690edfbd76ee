#include "hsattn/base/executor.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "hsattn/base/error.h"

namespace hsattn {
namespace {

class SerialExecutor final : public Executor {
 public:
  int threads() const override { return 1; }
  void run(Index tasks, const std::function<void(Index)>& body) override {
    for (Index task = 0; task < tasks; ++task) body(task);
  }
};

// One call of run(): threads take tasks from a counter until it is used up.
struct Job {
  Index tasks = 0;
  const std::function<void(Index)>* body = nullptr;
  std::atomic<Index> next{0};
  std::atomic<int> working{0};  // helpers that have not left the job
  std::exception_ptr error;
  std::mutex error_mutex;

  void work() {
    for (Index task = next++; task < tasks; task = next++) {
      try {
        (*body)(task);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next = tasks;
      }
    }
  }
};

// Threads of one process; made anew in a child after fork(), where the parent's threads do not exist.
class Workers {
 public:
  // Where the system gives no more threads, those that there are do the work.
  explicit Workers(int helpers) : pid_(getpid()) {
    threads_.reserve(static_cast<std::size_t>(helpers));
    for (int i = 0; i < helpers; ++i) {
      try {
        threads_.emplace_back([this] { loop(); });
      } catch (const std::exception&) {
        break;
      }
    }
  }
  ~Workers() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  pid_t pid() const { return pid_; }

  void run(Job& job) {
    job.working = static_cast<int>(threads_.size());
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      ++round_;
    }
    wake_.notify_all();
    job.work();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return job.working == 0; });
    job_ = nullptr;
  }

 private:
  void loop() {
    std::uint64_t seen = 0;
    while (true) {
      Job* job = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || round_ != seen; });
        if (stop_) return;
        seen = round_;
        job = job_;
      }
      job->work();
      {
        const std::lock_guard lock(mutex_);
        --job->working;
      }
      done_.notify_one();
    }
  }

  pid_t pid_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  bool stop_ = false;
  std::uint64_t round_ = 0;
  Job* job_ = nullptr;
  std::vector<std::thread> threads_;
};

class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int threads)
      : threads_(threads > 0 ? threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))) {}

  ~ThreadPool() override { forget_workers_of_parent(); }

  int threads() const override { return threads_; }

  void run(Index tasks, const std::function<void(Index)>& body) override {
    if (threads_ == 1 || tasks <= 1) return serial_executor().run(tasks, body);
    const std::lock_guard one_caller_at_a_time(mutex_);
    forget_workers_of_parent();
    if (!workers_) workers_ = std::make_unique<Workers>(threads_ - 1);
    Job job;
    job.tasks = tasks;
    job.body = &body;
    workers_->run(job);
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  // After fork() the parent's threads are not here, so they cannot be joined.
  void forget_workers_of_parent() {
    if (workers_ && workers_->pid() != getpid()) (void)workers_.release();
  }

  int threads_;
  std::mutex mutex_;
  std::unique_ptr<Workers> workers_;
};

}  // namespace

Executor& serial_executor() {
  static SerialExecutor executor;
  return executor;
}

std::unique_ptr<Executor> make_thread_pool(int threads) {
  check(threads >= 0, "make_thread_pool: threads is ", threads, "; it must be at least 1, or 0 for all processors");
  return std::make_unique<ThreadPool>(threads);
}

}  // namespace hsattn
