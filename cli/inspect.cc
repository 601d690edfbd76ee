#include "lm/eval/inspect.h"

#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/inspect_page.h"
#include "cli/progress.h"
#include "lm/data/files.h"

namespace hsattn::cli {
namespace {

void print_json(const lm::InspectOptions& options, const lm::InspectReport& r, std::ostream& out) {
  nlohmann::ordered_json json = {{"model", r.model_file},
                                 {"attention", r.attention.attention},
                                 {"tokens", r.tokens},
                                 {"block", r.block},
                                 {"page", options.out}};
  json["heads"] = nlohmann::ordered_json::array();
  for (const lm::HeadReport& h : r.heads) {
    json["heads"].push_back({{"layer", h.layer},
                             {"head", h.head},
                             {"mass", h.mass},
                             {"distance_full", h.distance_full},
                             {"distance_held", h.distance_held},
                             {"near", h.near},
                             {"blocks", h.blocks},
                             {"far", h.far}});
  }
  out << json.dump() << "\n";
}

void print_table(const lm::InspectOptions& options, const lm::InspectReport& r, std::ostream& out) {
  out << r.model_file << ", attention " << r.attention.attention << ", " << r.tokens << " tokens\n"
      << " layer  head   mass held  distance full    held    near  blocks     far\n";
  for (const lm::HeadReport& h : r.heads) {
    double far = 0;
    for (const double share : h.far) far += share;
    out << std::setw(6) << h.layer << std::setw(6) << h.head << std::setw(11) << fixed(100 * h.mass, 1) << "%"
        << std::setw(15) << fixed(h.distance_full, 0) << std::setw(8) << fixed(h.distance_held, 0) << std::setw(7)
        << fixed(100 * h.near, 1) << "%" << std::setw(7) << fixed(100 * h.blocks, 1) << "%" << std::setw(7)
        << fixed(100 * far, 1) << "%\n";
  }
  out << "picture: " << options.out << "\n";
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::InspectOptions options;
  parse_arguments(arguments, options);
  if (options.model.empty()) throw UsageError("no --model; name a run folder, a checkpoint or a .safetensors file");
  if (options.text.empty()) throw UsageError("no --text; name a text, .gz, .jsonl or token file");
  lm::check_inspect_options(options);
  const lm::InspectReport report = lm::inspect_model(options, interrupted());
  if (report.interrupted) return kInterrupted;
  lm::write_file(options.out, inspect_page(report));
  if (options.json) {
    print_json(options, report, out);
  } else {
    print_table(options, report, out);
  }
  return kSuccess;
}

void print(std::ostream& out) {
  lm::InspectOptions options;
  print_options(options, out);
}

}  // namespace

Command inspect_command() {
  return {"inspect", "what each head of a model attends: mass held, distances, levels, a picture",
          "  hsattn inspect --model runs/hsa --text book.txt.gz --out attention.html\n"
          "  hsattn inspect --model runs/sdpa --text runs/data/heldout.tokens --attention hsa --preset any_model\n",
          run, print};
}

}  // namespace hsattn::cli
