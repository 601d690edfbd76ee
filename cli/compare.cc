#include "lm/pretrained/compare.h"

#include <cmath>
#include <filesystem>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.h"
#include "cli/compare_page.h"
#include "cli/progress.h"
#include "lm/data/files.h"

namespace hsattn::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string percent(double share) { return fixed(100 * share, 1) + " %"; }

// JSON has no infinity: an interval of one window is null.
Json to_json(const lm::Interval& interval) {
  return {{"difference", interval.mean}, {"half", std::isfinite(interval.half) ? Json(interval.half) : Json()}};
}

Json to_json(const lm::TextRow& row) {
  return {{"perplexity", row.perplexity},
          {"perplexity_last_half", row.perplexity_last_half},
          {"change", to_json(row.change)},
          {"change_last_half", to_json(row.change_last_half)}};
}

Json to_json(const lm::RecallRow& row) {
  return {{"digits", row.digits},
          {"right", row.right},
          {"samples", row.samples},
          {"share", row.share()},
          {"difference", to_json(row.difference)}};
}

Json to_json(const lm::CompareOptions& o, const lm::CompareReport& report, const lm::CompareRow& row) {
  Json texts = Json::array();
  for (std::size_t i = 0; i < row.texts.size(); ++i) {
    Json text = {{"text", report.texts[i]}};
    text.update(to_json(row.texts[i]));
    texts.push_back(text);
  }
  Json json = {{"row", row.name},
               {"attended_last", row.attended.last},
               {"attended_average", row.attended.average},
               {"all_texts", to_json(row.all_texts)},
               {"texts", texts}};
  if (o.positions > 0) json["mass"] = row.mass;
  if (o.answers > 0) json["pass_key"] = to_json(row.pass_key), json["numbers"] = to_json(row.numbers);
  if (o.speed) {
    json["prefill_tokens_per_s"] = row.prefill_tokens_per_s;
    json["decode_tokens_per_s"] = row.decode_tokens_per_s;
    json["cache_mib"] = row.cache_mib;
    json["peak_memory_mib"] = row.peak_mib;
  }
  return json;
}

void print_json(const lm::CompareOptions& o, const lm::CompareReport& r, const std::string& precision,
                std::ostream& out) {
  Json rows = Json::array();
  for (const lm::CompareRow& row : r.rows) rows.push_back(to_json(o, r, row));
  const Json json = {{"model", o.model},     {"precision", precision}, {"context", o.context},
                     {"windows", o.windows}, {"texts", r.texts},       {"rows", rows}};
  out << json.dump() << "\n";
}

void print_quality(const lm::CompareOptions& o, const lm::CompareReport& r, std::ostream& out) {
  out << "row               attended at the end, on average   mass held   perplexity              change     "
         "change, last half\n";
  for (const lm::CompareRow& row : r.rows) {
    out << std::left << std::setw(18) << row.name << std::right << std::setw(19) << percent(row.attended.last)
        << std::setw(12) << percent(row.attended.average) << std::setw(12)
        << (o.positions > 0 ? percent(row.mass) : "-") << std::setw(13) << fixed(row.all_texts.perplexity, 3)
        << std::setw(20) << with_interval(row.all_texts.change) << std::setw(22)
        << with_interval(row.all_texts.change_last_half) << "\n";
  }
}

void print_texts(const lm::CompareReport& r, std::ostream& out) {
  for (std::size_t text = 0; text < r.texts.size(); ++text) {
    out << "\n" << std::filesystem::path(r.texts[text]).filename().string() << "\n";
    for (const lm::CompareRow& row : r.rows) {
      const lm::TextRow& of = row.texts[text];
      out << "  " << std::left << std::setw(18) << row.name << std::right << std::setw(10) << fixed(of.perplexity, 3)
          << std::setw(20) << with_interval(of.change) << ", last half" << std::setw(20)
          << with_interval(of.change_last_half) << "\n";
    }
  }
}

void print_recall(const lm::CompareReport& r, std::ostream& out) {
  const lm::CompareRow& full = r.rows[0];
  out << "\ndigits found again: " << full.pass_key.digits << " of pass keys, " << full.numbers.digits
      << " of several numbers in a text\n";
  for (const lm::CompareRow& row : r.rows) {
    out << "  " << std::left << std::setw(18) << row.name << std::right << std::setw(10)
        << percent(row.pass_key.share()) << std::setw(18) << with_interval(row.pass_key.difference) << std::setw(11)
        << percent(row.numbers.share()) << std::setw(18) << with_interval(row.numbers.difference) << "\n";
  }
}

void print_speed(const lm::CompareReport& r, std::ostream& out) {
  out << "\n                    tokens read/s, written/s   keys and values, memory of the process\n";
  for (const lm::CompareRow& row : r.rows) {
    out << "  " << std::left << std::setw(18) << row.name << std::right << std::setw(13)
        << fixed(row.prefill_tokens_per_s, 0) << std::setw(11) << fixed(row.decode_tokens_per_s, 1) << std::setw(14)
        << fixed(row.cache_mib, 1) << " MiB" << std::setw(10) << (row.peak_mib > 0 ? fixed(row.peak_mib, 0) : "-")
        << " MiB\n";
  }
}

void print_tables(const lm::CompareOptions& o, const lm::CompareReport& r, const std::string& precision,
                  std::ostream& out) {
  out << o.model << ", " << precision << ", " << o.windows << " windows of " << o.context << " tokens of each of "
      << r.texts.size() << " texts; differences from full, with 95 % intervals, paired\n\n";
  print_quality(o, r, out);
  print_texts(r, out);
  if (o.answers > 0) print_recall(r, out);
  if (o.speed) print_speed(r, out);
}

int run(const Arguments& arguments, std::ostream& out) {
  lm::CompareOptions options;
  parse_arguments(arguments, options);
  lm::check_compare_options(options);
  std::optional<lm::AtomicFile> page;  // before anything is measured: a place that cannot be written is refused now
  if (!options.page.empty()) page.emplace(options.page);
  lm::Runtime runtime(options);
  Progress progress;
  const lm::CompareReport report =
      lm::compare_attention(runtime, options, interrupted(),
                            [&](Index done, Index all, const std::string& what) { progress.count(done, all, what); });
  progress.finish();
  if (report.interrupted) return kInterrupted;
  if (page) {
    page->write(compare_page(options, report, runtime.precision()));
    page->commit();
  }
  (options.json ? print_json : print_tables)(options, report, runtime.precision(), out);
  return kSuccess;
}

void print(std::ostream& out) {
  lm::CompareOptions options;
  print_options(options, out);
}

}  // namespace

Command compare_command() {
  return {"compare", "full attention and others beside each other on a pretrained model",
          "  hsattn compare --model models/smollm2-135m-instruct --text prose.txt,code.jsonl --page compare.html\n"
          "  hsattn compare --model MODEL --text texts --rows local,hsa,longformer --answers 0 --no-speed --json\n",
          run, print};
}

}  // namespace hsattn::cli
