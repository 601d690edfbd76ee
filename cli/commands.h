// The sub-commands of `hsattn`, one file each.
#pragma once

#include <atomic>
#include <ostream>
#include <vector>

#include "cli/arguments.h"

namespace hsattn::cli {

constexpr int kSuccess = 0;
constexpr int kFailure = 1;
constexpr int kUsage = 2;
constexpr int kInterrupted = 130;

struct Command {
  const char* name;
  const char* summary;
  const char* examples;  ///< lines, each a whole command
  int (*run)(const Arguments& arguments, std::ostream& out);
  void (*print_options)(std::ostream& out);
};

Command prepare_command();
Command tokenizer_command();
Command train_command();
Command eval_command();
Command generate_command();
Command chat_command();
Command convert_command();
Command compare_command();
Command bench_command();
Command bench_step_command();
Command inspect_command();
Command patterns_command();
Command task_command();
Command recall_command();
Command theory_command();
Command reproduce_command();
Command report_command();
Command doctor_command();

/// In the order of help.
const std::vector<Command>& commands();

/// Set by SIGINT and SIGTERM.
const std::atomic<bool>& interrupted();

}  // namespace hsattn::cli
