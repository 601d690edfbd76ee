#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "hsattn/base/error.h"
#include "lm/eval/attention_bench.h"
#include "lm/options/json_options.h"
#include "lm/train/environment.h"

namespace hsattn::cli {
namespace {

nlohmann::ordered_json result(const lm::BenchRow& row, const char* pass, double ms, double sdpa_ms, double error) {
  return {{"length", row.length},
          {"pass", pass},
          {"ms", ms},
          {"sdpa_ms", sdpa_ms},
          {"ratio", sdpa_ms / ms},
          {"plan_ms", row.plan},
          {"attended_tokens", row.attended_tokens},
          {"max_error", error}};
}

void print_json(lm::BenchOptions& options, const std::vector<lm::BenchRow>& rows, std::ostream& out) {
  nlohmann::ordered_json json = lm::to_json(options);
  json["environment"] = lm::describe_environment(lm::use_threads(options.threads));
  json["results"] = nlohmann::ordered_json::array();
  for (const lm::BenchRow& row : rows) {
    json["results"].push_back(result(row, "forward", row.forward, row.sdpa_forward, row.error_forward));
    if (!options.backward) continue;
    json["results"].push_back(result(row, "forward+backward", row.both, row.sdpa_both, row.error_backward));
  }
  out << json.dump() << "\n";
}

void print_row(std::ostream& out, const std::vector<std::string>& cells) {
  for (const std::string& cell : cells) out << std::right << std::setw(12) << cell;
  out << "\n";
}

void print_table(const lm::BenchOptions& o, const std::vector<lm::BenchRow>& rows, std::ostream& out) {
  out << o.attention.attention << (o.attention.attention == "hsa" ? " (" + o.attention.preset + ")" : "")
      << " against SDPA of torch " << lm::torch_version() << ": float32, causal, " << o.heads << " heads of " << o.dim
      << ", " << o.queries << " queries, threads: " << lm::use_threads(o.threads) << "; milliseconds, median of "
      << o.repeats << "\n";
  print_row(out, {"length", "plan", "attend", "forward", "SDPA", "faster"});
  for (const lm::BenchRow& row : rows) {
    print_row(out, {std::to_string(row.length), fixed(row.plan, 2), fixed(std::max(row.forward - row.plan, 0.0), 2),
                    fixed(row.forward, 2), fixed(row.sdpa_forward, 2), fixed(row.sdpa_forward / row.forward, 2) + "x"});
  }
  if (!o.backward) return;
  print_row(out, {"length", "fwd + bwd", "SDPA", "faster", "attended", "error"});
  for (const lm::BenchRow& row : rows) {
    std::ostringstream error;
    error << std::setprecision(1) << std::scientific << std::max(row.error_forward, row.error_backward);
    print_row(out, {std::to_string(row.length), fixed(row.both, 2), fixed(row.sdpa_both, 2),
                    fixed(row.sdpa_both / row.both, 2) + "x", fixed(row.attended_tokens, 0), error.str()});
  }
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::BenchOptions options;
  parse_arguments(arguments, options);
  try {
    lm::check_bench_options(options);
  } catch (const InvalidArgument& error) {
    throw UsageError(error.what());
  }
  Progress progress;
  const auto rows = lm::bench_attention(options, interrupted(), [&](const std::string& text) { progress.line(text); });
  if (options.json) {
    print_json(options, rows, out);
  } else {
    print_table(options, rows, out);
  }
  return interrupted() ? kInterrupted : kSuccess;
}

void print(std::ostream& out) {
  lm::BenchOptions options;
  print_options(options, out);
}

}  // namespace

Command bench_command() {
  return {"bench", "attention alone against PyTorch's SDPA: checked, then timed",
          "  hsattn bench --lengths 4096,8192,16384\n"
          "  hsattn bench --pattern full --lengths 8192 --threads 2\n"
          "  hsattn bench --preset any_model --lengths 8192,32768 --no-backward --json\n",
          run, print};
}

}  // namespace hsattn::cli
