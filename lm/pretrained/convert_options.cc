#include <algorithm>
#include <charconv>

#include "hsattn/base/error.h"
#include "hsattn/plan/plan.h"
#include "lm/options/lists.h"
#include "lm/pretrained/convert.h"

namespace hsattn::lm {

void ConvertOptions::visit(OptionVisitor& option) {
  option("text", text, "texts of every kind to hold the target on: files or folders; several times, or with commas");
  option("target", target, "by how much perplexity may grow against full attention, on each text: 0.5% or 0.005");
  option("context", context, "tokens of a window");
  option("windows", windows, "held-out windows of each text, for the figures at the end");
  option("calibration", calibration, "other windows of each text, on which budgets are found");
  option("least", least, "the least top_k that a head gets");
  option("most", most, "the most that a head gets; 0: half of the candidates");
  option("average", average, "top_k on average: share out so many, whatever the target; 0: as few as hold the target");
  option("steps", steps, "halvings of the search for the smallest budget");
  option("out", out, "file to write; MODEL/hsattn.json, which the runtime and hsattn.hf read, unless given");
  option("json", json, "print one JSON object");
  visit_all_but_attention(option);
}

double ConvertOptions::target_share() const {
  const bool percent = target.ends_with('%');
  const char* end = target.data() + target.size() - (percent ? 1 : 0);
  double share = 0;
  const auto [stop, error] = std::from_chars(target.data(), end, share);
  if (percent) share /= 100;
  check(error == std::errc() && stop == end && share > 0 && share <= 1, "target is ", target,
        "; a share above 0 is right, such as 0.5% or 0.005");
  return share;
}

std::string ConvertOptions::out_file() const { return out.empty() ? model + "/" + kBudgetsFile : out; }

BudgetRange ConvertOptions::range() const {
  return {least, most > 0 ? most : std::max(attention.hsa.candidates / 2, least), attention.hsa.block};
}

void check_convert_options(const ConvertOptions& o) {
  check_pretrained_options(o);
  o.target_share();
  check(!o.text.empty(), "no --text; name files or folders, one of every kind of text that the model will read");
  check_budgets_of_hsa(o);
  check(o.context >= 2 && o.context <= 1 << 24, "context is ", o.context, "; 2 to 16777216 is right");
  const Index dense_until = dense_until_of(o.attention.hsa, DType::kFloat32);
  check(o.context > dense_until, "context is ", o.context, ", dense_until ", dense_until,
        "; windows in which all is attended say nothing about budgets, so a longer context is right");
  check(o.windows >= 1, "windows is ", o.windows, "; at least 1 is right");
  check(o.calibration >= 1, "calibration is ", o.calibration, "; at least 1 is right");
  check(o.steps >= 0 && o.steps <= 30, "steps is ", o.steps, "; 0 to 30 is right");
  check(o.least >= 1, "least is ", o.least, "; at least 1 is right");
  check(o.most == 0 || o.most >= o.least, "most is ", o.most, "; at least --least, ", o.least, ", is right, or 0");
  const Index most = o.range().most;
  check(o.average == 0 || (o.average >= o.least && o.average <= most), "average is ", o.average, "; ", o.least, " to ",
        most, ", the least and the most that a head gets, is right, or 0");
}

std::vector<std::string> texts_of(const std::vector<std::string>& words) {
  std::vector<std::string> texts;
  for (const std::string& word : words) {
    for (std::string& text : split_list(word)) texts.push_back(std::move(text));
  }
  return texts;
}

}  // namespace hsattn::lm
