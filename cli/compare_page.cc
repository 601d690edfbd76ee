#include "cli/compare_page.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "cli/page.h"
#include "cli/progress.h"
#include "hsattn/base/error.h"

namespace hsattn::cli {
namespace {

constexpr double kWidth = 640, kRowHeight = 22, kLeft = 130, kTop = 20;

std::string percent(double share) { return fixed(100 * share, 1) + " %"; }

// A table from head and rows; the first column is a name.
void write_table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows,
                 std::ostream& out) {
  out << "<div class=\"scroll\"><table><tr>";
  for (const std::string& cell : head) out << "<th>" << escaped(cell) << "</th>";
  out << "</tr>\n";
  for (const auto& row : rows) {
    out << "<tr>";
    for (const std::string& cell : row) out << "<td>" << escaped(cell) << "</td>";
    out << "</tr>\n";
  }
  out << "</table></div>\n";
}

// Change of perplexity of each row: a point and its interval on a common scale that holds 0.
void draw_changes(const lm::CompareReport& r, std::ostream& out) {
  double low = 0, high = 0;
  for (const lm::CompareRow& row : r.rows) {
    const lm::Interval& change = row.all_texts.change;
    const double half = std::isfinite(change.half) ? change.half : 0;
    low = std::min(low, change.mean - half), high = std::max(high, change.mean + half);
  }
  const double span = std::max(high - low, 1e-6), scale = (kWidth - kLeft - 20) / span;
  const auto x = [&](double change) { return fixed(kLeft + scale * (change - low), 1); };
  const double height = kTop + kRowHeight * static_cast<double>(r.rows.size());
  out << "<div class=\"scroll\"><svg viewBox=\"0 0 " << kWidth << " " << height
      << "\" role=\"img\" aria-label=\"change of perplexity by row\">\n<text x=\"" << x(0)
      << "\" y=\"12\" text-anchor=\"middle\">as full attention</text>\n<line x1=\"" << x(0) << "\" x2=\"" << x(0)
      << "\" y1=\"" << kTop - 4 << "\" y2=\"" << height << "\" stroke=\"var(--line)\"/>\n";
  for (std::size_t i = 0; i < r.rows.size(); ++i) {
    const lm::Interval& change = r.rows[i].all_texts.change;
    const double y = kTop + kRowHeight * (static_cast<double>(i) + 0.5);
    out << "<text x=\"" << kLeft - 10 << "\" y=\"" << y + 4 << "\" text-anchor=\"end\">" << escaped(r.rows[i].name)
        << "</text>\n";
    if (std::isfinite(change.half)) {
      out << "<line x1=\"" << x(change.low()) << "\" x2=\"" << x(change.high()) << "\" y1=\"" << y << "\" y2=\"" << y
          << "\" stroke=\"var(--near)\" stroke-width=\"2\"/>\n";
    }
    out << "<circle class=\"near\" cx=\"" << x(change.mean) << "\" cy=\"" << y << "\" r=\"4\"><title>"
        << with_interval(change) << "</title></circle>\n";
  }
  out << "</svg></div>\n";
}

void write_quality(const lm::CompareOptions& o, const lm::CompareReport& r, std::ostream& out) {
  std::vector<std::string> head = {"",       "attended at the end", "on average", "perplexity",
                                   "change", "change, last half"};
  if (o.positions > 0) head.insert(head.begin() + 3, "attention mass held");
  std::vector<std::vector<std::string>> rows;
  for (const lm::CompareRow& row : r.rows) {
    rows.push_back({row.name, percent(row.attended.last), percent(row.attended.average),
                    fixed(row.all_texts.perplexity, 3), with_interval(row.all_texts.change),
                    with_interval(row.all_texts.change_last_half)});
    if (o.positions > 0) rows.back().insert(rows.back().begin() + 3, percent(row.mass));
  }
  write_table(head, rows, out);
}

void write_texts(const lm::CompareReport& r, std::ostream& out) {
  for (std::size_t text = 0; text < r.texts.size(); ++text) {
    out << "<h3>" << escaped(r.texts[text]) << "</h3>\n";
    std::vector<std::vector<std::string>> rows;
    for (const lm::CompareRow& row : r.rows) {
      const lm::TextRow& of = row.texts[text];
      rows.push_back({row.name, fixed(of.perplexity, 3), with_interval(of.change), fixed(of.perplexity_last_half, 3),
                      with_interval(of.change_last_half)});
    }
    write_table({"", "perplexity", "change", "last half", "change"}, rows, out);
  }
}

void write_recall(const lm::CompareReport& r, std::ostream& out) {
  std::vector<std::vector<std::string>> rows;
  for (const lm::CompareRow& row : r.rows) {
    rows.push_back({row.name, percent(row.pass_key.share()), with_interval(row.pass_key.difference),
                    percent(row.numbers.share()), with_interval(row.numbers.difference)});
  }
  const lm::CompareRow& full = r.rows[0];
  out << "<p class=\"faint\">Digits that were the likeliest token, given those before: " << full.pass_key.digits
      << " of pass keys, one in each of " << full.pass_key.samples << " texts, and " << full.numbers.digits
      << " of numbers, several in each of " << full.numbers.samples
      << " texts. Differences are from full attention, paired over texts.</p>\n";
  write_table({"", "pass keys", "difference", "numbers", "difference"}, rows, out);
}

void write_speed(const lm::CompareReport& r, std::ostream& out) {
  std::vector<std::vector<std::string>> rows;
  for (const lm::CompareRow& row : r.rows) {
    rows.push_back({row.name, fixed(row.prefill_tokens_per_s, 0), fixed(row.decode_tokens_per_s, 1),
                    fixed(row.cache_mib, 1), row.peak_mib > 0 ? fixed(row.peak_mib, 0) : ""});
  }
  write_table({"", "reading, tokens/s", "writing, tokens/s", "keys and values, MiB", "memory of the process, MiB"},
              rows, out);
}

}  // namespace

std::string with_interval(const lm::Interval& share) {
  const std::string half = std::isfinite(share.half) ? concat(" +- ", fixed(100 * share.half, 2)) : "";
  return concat(share.mean >= 0 ? "+" : "", fixed(100 * share.mean, 2), " %", half);
}

std::string compare_page(const lm::CompareOptions& o, const lm::CompareReport& r, const std::string& precision) {
  std::ostringstream out;
  out << page_head("Ways to attend, compared") << "<h1>Ways to attend, compared</h1>\n<p>" << escaped(o.model) << ", "
      << escaped(precision) << ", " << o.windows << " windows of " << o.context << " tokens of each of "
      << r.texts.size() << " texts, as the model is, without training</p>\n";
  out << "<h2>Quality</h2>\n<p class=\"faint\">Changes of perplexity are against full attention, with 95 % intervals, "
         "paired over windows. Attended: of all tokens up to the position.</p>\n";
  draw_changes(r, out);
  write_quality(o, r, out);
  write_texts(r, out);
  if (r.rows[0].pass_key.samples > 0) {
    out << "<h2>Recall</h2>\n";
    write_recall(r, out);
  }
  if (o.speed) {
    out << "<h2>Speed and memory</h2>\n<p class=\"faint\">" << o.context << " tokens read, " << o.decode
        << " written; the middle of " << o.repeats << ".</p>\n";
    write_speed(r, out);
  }
  out << "</body></html>\n";
  return out.str();
}

}  // namespace hsattn::cli
