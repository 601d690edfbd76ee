#include "cli/commands.h"
#include "lm/data/tasks.h"

namespace hsattn::cli {
namespace {

int run(const Arguments& arguments, std::ostream& out) {
  lm::TaskOptions options;
  parse_arguments(arguments, options);
  if (options.out.empty()) throw UsageError("no --out; name the folder to write");
  lm::write_task(options);
  out << options.out << ": " << options.samples << " samples of " << options.length << " bytes, " << options.held_out
      << " held out\n";
  return kSuccess;
}

void print(std::ostream& out) {
  lm::TaskOptions options;
  print_options(options, out);
}

}  // namespace

Command task_command() {
  return {"task", "texts that ask for what stood far before: to train on and to read out",
          "  hsattn task --task recall --length 1024 --out runs/recall\n"
          "  hsattn train --data runs/recall --run runs/r --context 1024 --aligned --answers-only --steps 500\n"
          "  hsattn recall --model runs/r --data runs/recall --context 1024\n",
          run, print};
}

}  // namespace hsattn::cli
