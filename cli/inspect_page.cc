#include "cli/inspect_page.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "cli/page.h"
#include "cli/progress.h"

namespace hsattn::cli {
namespace {

using lm::Span;

constexpr double kWidth = 960, kRowHeight = 9, kTop = 22, kLeft = 64;

std::string percent(double share) { return fixed(100 * share, 1) + "%"; }

const char* class_of(Span::Kind kind) {
  return kind == Span::Kind::kNear ? "near" : kind == Span::Kind::kBlock ? "block" : "far";
}

// Tokens and blocks are solid, stronger where they weigh more; far nodes are paler the more tokens they stand for.
double opacity(const Span& span, double weight) {
  if (span.kind == Span::Kind::kFar) return std::max(0.12, 0.5 - 0.06 * static_cast<double>(span.level));
  return 0.45 + 0.55 * std::min(1.0, std::sqrt(weight));
}

void draw_rows(const lm::InspectReport& r, std::ostream& out) {
  const double height = kTop + kRowHeight * static_cast<double>(r.rows.size()) + 4;
  const double scale = (kWidth - kLeft) / static_cast<double>(r.tokens);
  out << "<div class=\"scroll\"><svg viewBox=\"0 0 " << kWidth << " " << height
      << "\" role=\"img\" aria-label=\"attended tokens by position\">\n";
  for (int tick = 0; tick <= 4; ++tick) {
    const double token = static_cast<double>(r.tokens) * tick / 4;
    out << "<text x=\"" << kLeft + scale * token << "\" y=\"12\" text-anchor=\""
        << (tick == 0   ? "start"
            : tick == 4 ? "end"
                        : "middle")
        << "\">" << std::llround(token) << "</text>\n";
  }
  for (std::size_t i = 0; i < r.rows.size(); ++i) {
    const double y = kTop + kRowHeight * static_cast<double>(i);
    if (i % 4 == 3 || i + 1 == r.rows.size()) {
      out << "<text x=\"" << kLeft - 6 << "\" y=\"" << y + kRowHeight - 1 << "\" text-anchor=\"end\">"
          << r.rows[i].position << "</text>\n";
    }
    for (std::size_t s = 0; s < r.rows[i].spans.size(); ++s) {
      const Span& span = r.rows[i].spans[s];
      out << "<rect class=\"" << class_of(span.kind) << "\" x=\""
          << fixed(kLeft + scale * static_cast<double>(span.begin), 2) << "\" y=\"" << y << "\" width=\""
          << fixed(std::max(scale * static_cast<double>(span.size()), 0.4), 2) << "\" height=\"" << kRowHeight - 2
          << "\" opacity=\"" << fixed(opacity(span, r.rows[i].weights[s]), 2) << "\"/>\n";
    }
  }
  out << "</svg></div>\n";
}

void write_table(const lm::InspectReport& r, std::ostream& out) {
  std::size_t levels = 0;
  for (const lm::HeadReport& head : r.heads) levels = std::max(levels, head.far.size());
  out << "<div class=\"scroll\"><table><tr><th>layer</th><th>head</th><th>mass held</th><th>distance, "
         "full</th><th>distance, held</th>"
      << "<th>near</th><th>blocks</th>";
  for (std::size_t level = 0; level < levels; ++level) out << "<th>far, " << (r.block << level) << "</th>";
  out << "</tr>\n";
  for (const lm::HeadReport& head : r.heads) {
    out << "<tr><td>" << head.layer << "</td><td>" << head.head << "</td><td>" << percent(head.mass) << "</td><td>"
        << fixed(head.distance_full, 0) << "</td><td>" << fixed(head.distance_held, 0) << "</td><td>"
        << percent(head.near) << "</td><td>" << percent(head.blocks) << "</td>";
    for (std::size_t level = 0; level < levels; ++level) {
      out << "<td>" << (level < head.far.size() ? percent(head.far[level]) : "") << "</td>";
    }
    out << "</tr>\n";
  }
  out << "</table></div>\n";
}

}  // namespace

std::string inspect_page(const lm::InspectReport& r) {
  std::ostringstream out;
  out << page_head("What the heads attend") << "<h1>What the heads attend</h1>\n<p>" << escaped(r.model_file) << ", "
      << r.tokens << " tokens, attention <b>" << escaped(r.attention.attention) << "</b></p>\n";
  out << "<h2>Layer " << r.drawn_layer << ", head " << r.drawn_head
      << "</h2>\n<p class=\"faint\">Each row is a position, each column a token."
      << "<span class=\"legend\"><span class=\"key\" style=\"background:var(--near)\"></span>near tokens</span> "
      << "<span class=\"legend\"><span class=\"key\" style=\"background:var(--block)\"></span>selected blocks of "
      << r.block << ", stronger where they weigh more</span> "
      << "<span class=\"legend\"><span class=\"key\" style=\"background:var(--far)\"></span>pooled nodes, paler the "
         "more tokens they stand "
         "for</span></p>\n";
  draw_rows(r, out);
  out << "<h2>Every head</h2>\n<p class=\"faint\">Averages over " << r.rows.size()
      << " positions. Mass held: the share of full attention's "
      << "probability on tokens that are attended one by one. Distances in tokens. Near, blocks, far: shares of this "
         "attention's own softmax; "
      << "the number is the tokens that a pooled node stands for.</p>\n";
  write_table(r, out);
  out << "</body></html>\n";
  return out.str();
}

}  // namespace hsattn::cli
