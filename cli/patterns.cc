#include "lm/eval/patterns.h"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"

namespace hsattn::cli {
namespace {

using Json = nlohmann::ordered_json;

// Weights of a row as one letter each: 0-9, a-z for the square root of the share of the largest.
constexpr const char* kLetters = "0123456789abcdefghijklmnopqrstuvwxyz";
constexpr double kSteps = 35;

double rounded(double value) { return std::round(1e5 * value) / 1e5; }

Json rounded(const std::vector<double>& values) {
  Json json = Json::array();
  for (const double value : values) json.push_back(rounded(value));
  return json;
}

Json head_json(const lm::HeadPatterns& h) {
  return {{"layer", h.layer},
          {"head", h.head},
          {"mass", h.mass},
          {"oracle_blocks", h.oracle_blocks},
          {"oracle_tokens", h.oracle_tokens},
          {"tokens_for_95", h.tokens_for_95},
          {"attended", h.attended},
          {"attended_last", h.attended_last},
          {"error", h.error},
          {"near", h.near},
          {"blocks", h.blocks},
          {"far", rounded(h.far)},
          {"true_by_distance", rounded(h.true_by_distance)},
          {"held_by_distance", rounded(h.held_by_distance)},
          {"sentence", h.sentence},
          {"paragraph", h.paragraph}};
}

Json row_json(const lm::ExploredRow& row) {
  const double most = *std::max_element(row.weights.begin(), row.weights.end());
  std::string letters;
  for (const double weight : row.weights) {
    letters += kLetters[static_cast<std::size_t>(std::lround(kSteps * std::sqrt(weight / most)))];
  }
  Json spans = Json::array();  // [kind, begin, end, level, share]
  for (std::size_t i = 0; i < row.spans.size(); ++i) {
    const lm::Span& span = row.spans[i];
    spans.push_back({static_cast<int>(span.kind), span.begin, span.end, span.level, rounded(row.shares[i])});
  }
  return {{"layer", row.layer},    {"head", row.head},   {"position", row.position},
          {"most", rounded(most)}, {"weights", letters}, {"spans", spans}};
}

// Numbers of bytes, or the texts of a tokenizer's tokens.
Json text_json(const lm::PatternsReport& r) {
  Json text = Json::array();
  for (const std::string& token : r.text) {
    if (r.bytes) {
      text.push_back(static_cast<int>(static_cast<unsigned char>(token[0])));
    } else {
      text.push_back(token);
    }
  }
  return text;
}

void print_json(const lm::PatternsOptions& o, const lm::PatternsReport& r, std::ostream& out) {
  Json json = {{"model", r.model_file}, {"trained_with", r.trained_with}, {"tokens", r.tokens},
               {"block", r.block},      {"positions", o.positions},       {"top_k", o.attention.hsa.top_k}};
  json["heads"] = Json::array(), json["budgets"] = Json::array(), json["rows"] = Json::array();
  for (const lm::HeadPatterns& head : r.heads) json["heads"].push_back(head_json(head));
  for (const lm::BudgetPoint& p : r.budgets) {
    json["budgets"].push_back(
        {{"top_k", p.top_k}, {"attended", p.attended}, {"mass", p.mass}, {"least_mass", p.least_mass}});
  }
  for (const lm::ExploredRow& row : r.rows) json["rows"].push_back(row_json(row));
  if (!r.rows.empty()) json["text"] = text_json(r);
  // A token of a tokenizer may hold a part of a character.
  out << json.dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
}

void print_table(const lm::PatternsReport& r, std::ostream& out) {
  out << r.model_file << ", trained with " << r.trained_with << ", " << r.tokens << " tokens\n"
      << " layer  head   mass held  oracle, blocks  oracle, tokens  attended  for 95%   error\n";
  for (const lm::HeadPatterns& h : r.heads) {
    out << std::setw(6) << h.layer << std::setw(6) << h.head << std::setw(11) << fixed(100 * h.mass, 1) << "%"
        << std::setw(15) << fixed(100 * h.oracle_blocks, 1) << "%" << std::setw(15) << fixed(100 * h.oracle_tokens, 1)
        << "%" << std::setw(10) << fixed(h.attended, 0) << std::setw(9) << fixed(h.tokens_for_95, 0) << std::setw(8)
        << fixed(h.error, 3) << "\n";
  }
  for (const lm::BudgetPoint& p : r.budgets) {
    out << "top_k " << p.top_k << ": " << fixed(p.attended, 0) << " tokens hold " << fixed(100 * p.mass, 1)
        << "%, in the worst head " << fixed(100 * p.least_mass, 1) << "%\n";
  }
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::PatternsOptions options;
  parse_arguments(arguments, options);
  if (options.model.empty()) throw UsageError("no --model; name a run folder, a checkpoint or a .safetensors file");
  if (options.text.empty()) throw UsageError("no --text; name a text, .gz, .jsonl or token file");
  const lm::PatternsReport report = lm::measure_patterns(options, interrupted());
  if (report.interrupted) return kInterrupted;
  if (options.json) {
    print_json(options, report, out);
  } else {
    print_table(report, out);
  }
  return kSuccess;
}

void print(std::ostream& out) {
  lm::PatternsOptions options;
  print_options(options, out);
}

}  // namespace

Command patterns_command() {
  return {"patterns", "how much of a model's true attention HSA finds, beside an oracle with the same budget",
          "  hsattn patterns --model runs/full --text book.txt.gz --top-k 256 --candidates 1024\n"
          "  hsattn patterns --model runs/hsa --text runs/data/heldout.tokens --explore 8 --json\n",
          run, print};
}

}  // namespace hsattn::cli
