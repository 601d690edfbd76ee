#include <algorithm>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "lm/eval/step_bench.h"
#include "lm/options/json_options.h"
#include "lm/train/environment.h"

namespace hsattn::cli {
namespace {

using Rows = std::vector<lm::StepBenchRow>;

bool ours(const std::string& attention) { return attention != "sdpa" && attention != "standard"; }

// The rows of one length that ran with this library's attentions: what the others are compared with.
Rows ours_at(const Rows& rows, Index length) {
  Rows found;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(found),
               [&](const lm::StepBenchRow& row) { return row.length == length && row.fits && ours(row.attention); });
  return found;
}

double tokens_per_s(const lm::StepBenchOptions& o, const lm::StepBenchRow& row) {
  return 1000 * static_cast<double>(o.batch * row.length) / row.step;
}

nlohmann::ordered_json result(const lm::StepBenchOptions& o, const Rows& rows, const lm::StepBenchRow& row) {
  nlohmann::ordered_json json = {{"length", row.length},
                                 {"attention", row.attention},
                                 {"fits", row.fits},
                                 {"needs_gib", row.needs_gib},
                                 {"available_gib", row.available_gib}};
  if (!row.fits) return json;
  json["ms"] = row.step;
  json["all_ms"] = row.steps;
  if (o.forward) json["forward_ms"] = row.forward, json["all_forward_ms"] = row.forwards;
  json["attention_ms"] = row.in_attention;
  json["optimizer_ms"] = row.in_optimizer;
  json["attention_share"] = row.in_attention / row.step;
  json["tokens_per_s"] = tokens_per_s(o, row);
  json["peak_memory_mib"] = row.peak_memory_mib;
  json["step_memory_mib"] = row.step_memory_mib;
  json["attended_tokens"] = row.attended_tokens;
  json["loss"] = row.loss;
  json["loss_error"] = row.loss_error;
  json["gradient_error"] = row.gradient_error;
  json["faster"] = nlohmann::ordered_json::object();
  for (const lm::StepBenchRow& fast : ours_at(rows, row.length)) json["faster"][fast.attention] = row.step / fast.step;
  return json;
}

void print_json(lm::StepBenchOptions& options, const Rows& rows, std::ostream& out) {
  nlohmann::ordered_json json = lm::to_json(options);
  json["parameters"] = options.model.parameters();
  json["precision"] = "float32";
  json["environment"] = lm::describe_environment(lm::use_threads(options.threads));
  json["peak_memory_mib"] = lm::peak_memory_mib();
  json["results"] = nlohmann::ordered_json::array();
  for (const lm::StepBenchRow& row : rows) json["results"].push_back(result(options, rows, row));
  out << json.dump() << "\n";
}

void print_cells(std::ostream& out, const std::vector<std::string>& cells) {
  for (std::size_t i = 0; i < cells.size(); ++i) out << std::right << std::setw(i == 0 ? 10 : 12) << cells[i];
  out << "\n";
}

std::string scientific(double value) {
  std::ostringstream text;
  text << std::setprecision(1) << std::scientific << value;
  return text.str();
}

void print_length(const lm::StepBenchOptions& o, const Rows& rows, Index length, std::ostream& out) {
  const Rows fast = ours_at(rows, length);
  std::vector<std::string> head = {"", "step", "attention", "share", "AdamW", "tok/s", "attended", "loss", "gradient"};
  for (const lm::StepBenchRow& row : fast) head.push_back("vs " + row.attention);
  out << length << " tokens\n";
  print_cells(out, head);
  for (const lm::StepBenchRow& row : rows) {
    if (row.length != length) continue;
    if (!row.fits) {
      out << std::setw(10) << row.attention << "  needs " << fixed(row.needs_gib, 1) << " GiB, "
          << fixed(row.available_gib, 1) << " GiB are available\n";
      continue;
    }
    std::vector<std::string> cells = {row.attention,
                                      fixed(row.step, 1),
                                      fixed(row.in_attention, 1),
                                      fixed(100 * row.in_attention / row.step, 0) + "%",
                                      fixed(row.in_optimizer, 1),
                                      short_number(tokens_per_s(o, row)),
                                      fixed(row.attended_tokens, 0),
                                      fixed(row.loss, 5),
                                      scientific(row.gradient_error)};
    for (const lm::StepBenchRow& other : fast) cells.push_back(fixed(row.step / other.step, 2) + "x");
    print_cells(out, cells);
  }
}

void print_table(const lm::StepBenchOptions& o, const Rows& rows, std::ostream& out) {
  const lm::ModelConfig& m = o.model;
  out << "one training step: " << m.layers << " layers, " << m.width << " wide, " << m.heads << " heads of "
      << m.head_dim() << ", " << short_number(static_cast<double>(m.parameters())) << " parameters; float32, batch "
      << o.batch << " of " << (o.text.empty() ? "random bytes" : o.text) << ", checkpointing "
      << (o.checkpointing ? "on" : "off") << ", threads: " << lm::use_threads(o.threads) << ", torch "
      << lm::torch_version() << "\nmilliseconds, median of " << o.repeats
      << "; vs X: times as long as with X; gradient: distance from that of sdpa, as a share; hsa: "
      << m.attention.preset << "\n";
  Index last = 0;
  for (const lm::StepBenchRow& row : rows) {
    if (row.length != last) print_length(o, rows, row.length, out);
    last = row.length;
  }
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::StepBenchOptions options;
  parse_arguments(arguments, options);
  lm::check_step_bench_options(options);
  Progress progress;
  const Rows rows = lm::bench_step(options, interrupted(), [&](const std::string& text) { progress.line(text); });
  if (options.json) {
    print_json(options, rows, out);
  } else {
    print_table(options, rows, out);
  }
  if (interrupted()) return kInterrupted;
  return std::any_of(rows.begin(), rows.end(), [](const auto& row) { return row.fits; }) ? kSuccess : kFailure;
}

void print(std::ostream& out) {
  lm::StepBenchOptions options;
  print_options(options, out);
}

}  // namespace

Command bench_step_command() {
  return {"bench-step", "a whole training step with different attentions: checked, then timed",
          "  hsattn bench-step\n"
          "  hsattn bench-step --attention hsa,sdpa --lengths 4096,8192,16384 --text data/train\n"
          "  hsattn bench-step --layers 12 --width 768 --heads 12 --checkpointing --threads 0 --json\n",
          run, print};
}

}  // namespace hsattn::cli
