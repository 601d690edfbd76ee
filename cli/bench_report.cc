#include "cli/bench_report.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "cli/progress.h"
#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/options/json_options.h"
#include "lm/train/environment.h"

namespace hsattn::cli {
namespace {

using nlohmann::ordered_json;
using Cells = std::vector<std::string>;

constexpr int kCellWidth = 9;

const char* pass_of(const lm::BenchCase& c) {
  return c.decode ? "decode" : c.backward ? "forward+backward" : "forward";
}
const char* dtype_of(const lm::BenchCase& c) { return c.bf16 ? "bfloat16" : "float32"; }

// Share of what the row's threads can do at most; 0 if unknown.
double share_of_peak(const lm::BenchRow& row, const lm::FmaPeak& peak) {
  const double most = row.which.bf16 ? peak.bfloat16 : peak.float32;
  return most > 0 ? row.gflops / (most * static_cast<double>(row.threads)) : 0;
}

// The row above, if this one is the same at twice its length, in a series that is timed without SDPA; else null.
const lm::BenchRow* half_of(const std::vector<lm::BenchRow>& rows, std::size_t i) {
  if (i == 0 || rows[i].which.sdpa) return nullptr;
  const lm::BenchCase &above = rows[i - 1].which, &c = rows[i].which;
  const bool half = 2 * above.length == c.length && above.backward == c.backward && !above.sdpa;
  return half && above.attention.preset == c.attention.preset ? &rows[i - 1] : nullptr;
}

ordered_json result(const BenchReport& report, std::size_t i) {
  const lm::BenchRow& row = report.rows[i];
  const lm::BenchCase& c = row.which;
  ordered_json json = {{"name", c.name},         {"length", c.length}, {"pass", pass_of(c)},
                       {"dtype", dtype_of(c)},   {"batch", c.batch},   {"heads", c.heads},
                       {"kv_heads", c.kv_heads}, {"dim", c.dim},       {"pattern", c.attention.attention}};
  if (!row.skipped.empty()) {
    json["skipped"] = row.skipped;
    return json;
  }
  // What was not timed or cannot be known is left out.
  const auto add = [&](const char* name, double value) {
    if (value > 0) json[name] = value;
  };
  json["threads"] = row.threads;
  json["turns"] = row.turns;
  json["ms"] = row.ours;
  add("sdpa_ms", row.sdpa);
  add("ratio", row.sdpa / row.ours);
  if (row.extrapolated) json["sdpa_extrapolated_from"] = lm::kLongestSdpa;
  add("one_thread_ms", row.one_thread);
  if (const lm::BenchRow* half = half_of(report.rows, i)) add("times_half_length", row.ours / half->ours);
  add("plan_ms", row.plan);
  add("attend_ms", row.attend);
  add("gflops", row.gflops);
  add("share_of_peak", share_of_peak(row, report.peak));
  add("extra_memory", row.memory);
  json["attended_tokens"] = row.attended_tokens;
  json["max_error"] = row.error;
  json["allowed_error"] = row.allowed_error;
  if (const auto before = report.baseline.find(c.name); before != report.baseline.end()) {
    json["before_ms"] = before->second.ours;
    json["speedup"] = before->second.ours / row.ours;
  }
  return json;
}

void print_cells(std::size_t first_width, const Cells& cells, std::ostream& out) {
  out << std::left << std::setw(static_cast<int>(first_width)) << cells[0];
  for (std::size_t i = 1; i < cells.size(); ++i) out << std::right << std::setw(kCellWidth) << cells[i];
  out << "\n";
}

std::size_t longest_name(const std::vector<lm::BenchRow>& rows) {
  std::size_t width = 0;
  for (const lm::BenchRow& row : rows) width = std::max(width, row.which.name.size());
  return width;
}

// Four digits of what may be microseconds or minutes.
std::string ms(double value) { return value > 0 ? fixed(value, value < 10 ? 4 : value < 1000 ? 2 : 0) : "-"; }
std::string times(double value) { return value > 0 ? fixed(value, 2) + "x" : "-"; }
std::string percent(double share) { return share > 0 ? fixed(100 * share, 0) + "%" : "-"; }

std::string scientific(double value) {
  std::ostringstream text;
  text << std::setprecision(1) << std::scientific << value;
  return text.str();
}

std::string note(const std::vector<lm::BenchRow>& rows, std::size_t i) {
  const lm::BenchRow& row = rows[i];
  if (row.one_thread > 0) return concat("  ", times(row.one_thread / row.ours), " one thread");
  const lm::BenchRow* half = half_of(rows, i);
  return half == nullptr ? "" : concat("  ", times(row.ours / half->ours), " half the length");
}

void print_head(const lm::BenchOptions& o, const BenchReport& report, std::ostream& out) {
  const ordered_json machine = lm::describe_environment(1);
  const std::string commit = machine["commit"].get<std::string>();
  out << machine["processor"].get<std::string>() << "; kernel " << machine["isa"].get<std::string>() << ", torch "
      << lm::torch_version() << (commit.empty() ? "" : concat(", commit ", commit)) << "\n";
  if (report.peak.float32 > 0) {
    out << "fused multiply-adds of one thread: " << fixed(report.peak.float32, 0) << " GFLOP/s in float32";
    if (report.peak.bfloat16 > 0) out << ", " << fixed(report.peak.bfloat16, 0) << " in bfloat16";
    out << "\n";
  }
  out << "causal, " << o.queries << " queries, " << o.batch << " x " << o.heads << " heads of " << o.dim
      << " unless a row says otherwise; milliseconds, median of up to " << o.repeats << " turns (more of short calls)\n"
      << "SDPA: torch's, in turn with ours; ~: of the first " << lm::kLongestSdpa
      << " tokens, extrapolated by n^2. search, attend: a plan made, and followed, in calls of their own\n"
      << "GFLOP/s: of full attention, 4 d n (n + 1) / 2 operations per head, with backward 14 d. memory: beyond inputs"
      << " and outputs, as a multiple of them\n"
      << "decode: one query for each head on a cache, beside the faster of SDPA's ways with grouped heads; memory: of "
         "the"
      << " cache, beyond keys and values\n";
}

void print_rows(const BenchReport& report, std::size_t width, std::ostream& out) {
  print_cells(width,
              {"", "threads", "ours", "SDPA", "faster", "search", "attend", "GFLOP/s", "of peak", "memory", "error"},
              out);
  for (std::size_t i = 0; i < report.rows.size(); ++i) {
    const lm::BenchRow& row = report.rows[i];
    if (!row.skipped.empty()) {
      out << std::left << std::setw(static_cast<int>(width)) << row.which.name << "  not run: " << row.skipped << "\n";
      continue;
    }
    std::ostringstream line;
    print_cells(
        width,
        {row.which.name, std::to_string(row.threads), ms(row.ours), concat(row.extrapolated ? "~" : "", ms(row.sdpa)),
         times(row.sdpa / row.ours), ms(row.plan), ms(row.attend), row.gflops > 0 ? fixed(row.gflops, 1) : "-",
         percent(share_of_peak(row, report.peak)), times(row.memory), scientific(row.error)},
        line);
    std::string text = line.str();
    text.insert(text.size() - 1, note(report.rows, i));
    out << text;
  }
}

void print_comparison(const BenchReport& report, std::size_t width, std::ostream& out) {
  out << "\nagainst the baseline; SDPA: how much faster the machine itself was\n";
  print_cells(width, {"", "before", "after", "faster", "SDPA"}, out);
  for (const lm::BenchRow& row : report.rows) {
    const auto found = report.baseline.find(row.which.name);
    if (!row.skipped.empty() || found == report.baseline.end()) continue;
    const Before& before = found->second;
    print_cells(width,
                {row.which.name, ms(before.ours), ms(row.ours), times(before.ours / row.ours),
                 row.sdpa > 0 ? times(before.sdpa / row.sdpa) : "-"},
                out);
  }
}

// Rows of one name are the same work only if these are the same.
void check_same_options(const std::string& path, const ordered_json& found, const ordered_json& right) {
  for (const auto& [name, value] : right.items()) {
    if (name == "only" || name == "quick" || name == "lengths" || name == "repeats") continue;
    const ordered_json& other = found.at(name);
    if (other != value)
      throw lm::FileError(concat(path, ": ", name, " is ", other.dump(), "; ", value.dump(), " is right, as here"));
  }
}

}  // namespace

Baseline read_baseline(const std::string& path, lm::BenchOptions& options) {
  const ordered_json json = lm::read_json(path);
  Baseline baseline;
  try {
    check_same_options(path, json, lm::to_json(options));
    for (const ordered_json& row : json.at("results")) {
      if (row.contains("skipped")) continue;
      baseline[row.at("name")] = {row.at("ms").get<double>(), row.value("sdpa_ms", 0.0)};
    }
  } catch (const nlohmann::json::exception&) {
    throw lm::FileError(path + ": not what bench --json or --save writes");
  }
  return baseline;
}

ordered_json bench_json(lm::BenchOptions& options, const BenchReport& report) {
  ordered_json json = lm::to_json(options);
  json["environment"] = lm::describe_environment(1);
  json["environment"].erase("threads");  // each row has its own
  json["peak_gflops"] = {{"float32", report.peak.float32}, {"bfloat16", report.peak.bfloat16}};
  json["results"] = ordered_json::array();
  for (std::size_t i = 0; i < report.rows.size(); ++i) json["results"].push_back(result(report, i));
  return json;
}

void print_bench(const lm::BenchOptions& options, const BenchReport& report, std::ostream& out) {
  const std::size_t width = longest_name(report.rows);
  print_head(options, report, out);
  print_rows(report, width, out);
  if (!report.baseline.empty()) print_comparison(report, width, out);
}

}  // namespace hsattn::cli
