#include "cli/commands.h"

namespace hsattn::cli {

const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      prepare_command(),   tokenizer_command(), train_command(),   eval_command(),   generate_command(),
      chat_command(),      convert_command(),   compare_command(), bench_command(),  bench_step_command(),
      inspect_command(),   patterns_command(),  task_command(),    recall_command(), theory_command(),
      reproduce_command(), report_command(),    doctor_command()};
  return all;
}

}  // namespace hsattn::cli
