#include "lm/data/prepare.h"

#include <iostream>

#include "cli/commands.h"
#include "hsattn/base/error.h"

namespace hsattn::cli {
namespace {

int run(const Arguments& arguments, std::ostream& out) {
  lm::PrepareOptions options;
  parse_arguments(arguments, options, "input");
  if (options.input.empty()) throw UsageError("no input; name files or folders");
  if (options.out.empty()) throw UsageError("no --out; name the folder to write");
  const lm::PrepareResult result = lm::prepare(options);
  for (const std::string& path : result.skipped) std::cerr << "hsattn prepare: " << path << " is no text; skipped\n";
  out << options.out << "/train.tokens    " << result.train_tokens << " tokens, " << result.train_documents
      << " documents\n"
      << options.out << "/heldout.tokens  " << result.held_out_tokens << " tokens, " << result.held_out_documents
      << " documents (split: " << result.split << ")\n";
  return kSuccess;
}

void print(std::ostream& out) {
  lm::PrepareOptions options;
  print_options(options, out);
}

}  // namespace

Command prepare_command() {
  return {"prepare", "text to token files, split into a training and a held-out part",
          "  hsattn prepare books/ --out runs/data\n"
          "  hsattn prepare train.txt.gz notes.jsonl --held-out valid.txt --out runs/data\n",
          run, print};
}

}  // namespace hsattn::cli
