#include "lm/pretrained/convert.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iomanip>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/progress.h"
#include "hsattn/base/error.h"

namespace hsattn::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string percent(double share, int digits = 1) { return fixed(100 * share, digits) + " %"; }

// JSON has no infinity: an interval of one window is null.
Json to_json(const lm::Interval& interval) {
  return {{"change", interval.mean}, {"half", std::isfinite(interval.half) ? Json(interval.half) : Json()}};
}

Json to_json(const lm::BudgetPoint& point) {
  return {{"budget", point.uniform ? "uniform" : "by head"},
          {"average_top_k", point.average},
          {"attended_last", point.attended.last},
          {"attended_average", point.attended.average},
          {"top_k", point.top_k},
          {"change", point.change},
          {"worst", point.worst}};
}

Json to_json(const std::vector<std::string>& texts, const std::vector<lm::HeldOutChange>& changes) {
  Json rows = Json::array();
  for (std::size_t i = 0; i < changes.size(); ++i) {
    rows.push_back({{"text", texts[i]},
                    {"perplexity_full", changes[i].full},
                    {"perplexity_full_last_half", changes[i].full_last_half},
                    {"all", to_json(changes[i].all)},
                    {"last_half", to_json(changes[i].last_half)}});
  }
  return rows;
}

void print_json(const lm::ConvertOptions& o, const lm::ConvertReport& r, std::ostream& out) {
  Json points = Json::array();
  for (const lm::BudgetPoint& point : r.points) points.push_back(to_json(point));
  Json errors = Json::array();
  for (const std::vector<lm::BudgetCurve>& layer : r.curves) {
    errors.push_back(Json::array());
    for (const lm::BudgetCurve& head : layer) errors.back().push_back({{"top_k", head.top_k}, {"errors", head.errors}});
  }
  const Json json = {{"model", o.model},
                     {"out", o.out_file()},
                     {"target", o.average > 0 ? Json() : Json(o.target_share())},
                     {"holds", o.average > 0 ? Json() : Json(r.held(o.target_share()))},
                     {"context", o.context},
                     {"texts", r.texts},
                     {"layers", r.layers},
                     {"errors", errors},
                     {"points", points},
                     {"chosen", to_json(r.chosen)},
                     {"uniform", r.uniform ? to_json(*r.uniform) : Json()},
                     {"held_out", to_json(r.texts, r.chosen_held_out)},
                     {"uniform_held_out", to_json(r.texts, r.uniform_held_out)}};
  out << json.dump() << "\n";
}

std::string name_of_text(const std::string& path) { return std::filesystem::path(path).filename().string(); }

// Of a head's share of all heads' errors at the least budget.
void print_heads(const lm::ConvertOptions& o, const lm::ConvertReport& r, std::ostream& out) {
  out << "layer   share of the error at top_k " << o.least << ", and top_k, of each key/value head\n";
  for (std::size_t i = 0; i < r.layers.size(); ++i) {
    out << std::setw(5) << r.layers[i];
    for (std::size_t head = 0; head < r.curves[i].size(); ++head) {
      out << std::setw(12) << percent(r.curves[i][head].errors.front(), 2) << std::setw(6) << r.chosen.top_k[i][head];
    }
    out << "\n";
  }
}

void print_points(const lm::ConvertReport& r, std::ostream& out) {
  out << "\nbudget     top_k on average   attended at the end, on average   change of perplexity, " << r.texts.size()
      << " texts\n";
  for (const lm::BudgetPoint& p : r.points) {
    out << (p.uniform ? "uniform" : "by head") << std::setw(20) << fixed(p.average, 0) << std::setw(23)
        << percent(p.attended.last) << std::setw(12) << percent(p.attended.average) << "  ";
    for (const double change : p.change) out << std::setw(10) << percent(change, 2);
    out << "\n";
  }
}

std::string with_interval(const lm::Interval& interval) {
  const std::string half = std::isfinite(interval.half) ? concat(" +- ", fixed(100 * interval.half, 2)) : "";
  return concat(fixed(100 * interval.mean, 2), half, " %");
}

void print_held_out(const std::string& name, const lm::ConvertReport& r, const lm::BudgetPoint& point,
                    const std::vector<lm::HeldOutChange>& changes, std::ostream& out) {
  out << name << ": top_k " << fixed(point.average, 0) << " on average, " << percent(point.attended.last)
      << " of the past attended at the end\n";
  for (std::size_t i = 0; i < changes.size(); ++i) {
    out << "  " << with_interval(changes[i].all) << ", last half " << with_interval(changes[i].last_half) << "  "
        << name_of_text(r.texts[i]) << " (full: " << fixed(changes[i].full, 3) << ")\n";
  }
}

void print_table(const lm::ConvertOptions& o, const lm::ConvertReport& r, std::ostream& out) {
  print_heads(o, r, out);
  print_points(r, out);
  out << "\nchange of perplexity on " << o.windows << " held-out windows of " << o.context
      << " tokens of each text, with 95 % intervals\n";
  print_held_out("by head", r, r.chosen, r.chosen_held_out, out);
  if (r.uniform) {
    print_held_out("uniform, for comparison", r, *r.uniform, r.uniform_held_out, out);
  } else {
    out << "no uniform budget holds the target\n";
  }
  out << "written: " << o.out_file() << "\n";
  if (o.average > 0) return;  // nothing was to be held
  const double target = o.target_share();
  out << (r.held(target) ? "the target of " : "THE HELD-OUT WINDOWS MISS the target of ") << percent(target, 2)
      << (r.held(target) ? " holds on them" : "; more --calibration windows, or a smaller --target, help") << "\n";
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::ConvertOptions options;
  parse_arguments(arguments, options);
  lm::check_convert_options(options);
  lm::Runtime runtime(options);
  Progress progress;
  const lm::ConvertReport report =
      lm::convert_model(runtime, options, interrupted(), [&](Index done, Index all, const std::string& what) {
        progress.count(done, all, concat("measurements, ", what.substr(0, 40)));
      });
  progress.finish();
  if (report.interrupted) {
    progress.line(concat("interrupted; what was measured is in ", options.out_file(),
                         ".partial, and the same command goes on from there"));
    return kInterrupted;
  }
  (options.json ? print_json : print_table)(options, report, out);
  return kSuccess;
}

void print(std::ostream& out) {
  lm::ConvertOptions options;
  print_options(options, out);
}

}  // namespace

Command convert_command() {
  return {"convert", "budgets for a pretrained model, head by head, without training",
          "  hsattn convert --model models/smollm2-135m-instruct --text prose.txt,code.jsonl --target 0.5%\n"
          "  hsattn convert --model MODEL --text texts --target 1% --context 8192 --out budgets.json --json\n",
          run, print};
}

}  // namespace hsattn::cli
