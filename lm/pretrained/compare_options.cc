#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "lm/options/lists.h"
#include "lm/pretrained/compare.h"
#include "lm/pretrained/needles.h"

namespace hsattn::lm {

void CompareOptions::visit(OptionVisitor& option) {
  option("text", text, "texts to measure on: files or folders; several times, or with commas");
  option("rows", rows, "ways to attend, beside full attention: sdpa, standard, and patterns");
  option("context", context, "tokens of a window, and of a sample that asks");
  option("windows", windows, "windows of each text");
  option("answers", answers, "digits to ask for: a fifth of them pass keys, one in a text; 0: none");
  option("numbers", numbers, "of other samples: numbers in each");
  option("positions", positions, "positions of a window at which attention mass is measured; 0: none");
  option("speed", speed, "measure speed and memory");
  option("decode", decode, "tokens to write for the speed of decoding");
  option("repeats", repeats, "of the measurements of speed");
  option("seed", seed, "of numbers and their places");
  option("page", page, "HTML file to write");
  option("json", json, "print one JSON object");
  visit_all_but_attention(option);
}

void check_compare_options(const CompareOptions& o) {
  check_pretrained_options(o);
  check(!o.text.empty(), "no --text; name files or folders");
  check_budgets_of_hsa(o);
  check(o.context >= 2 && o.context <= 1 << 24, "context is ", o.context, "; 2 to 16777216 is right");
  check(o.windows >= 1, "windows is ", o.windows, "; at least 1 is right");
  check(o.answers >= 0, "answers is ", o.answers, "; at least 0 is right");
  check(o.numbers >= 1 && o.numbers <= kMostNumbers, "numbers is ", o.numbers, "; 1 to ", kMostNumbers, " is right");
  check(o.positions >= 0, "positions is ", o.positions, "; at least 0 is right");
  check(o.decode >= 1, "decode is ", o.decode, "; at least 1 is right");
  check(o.repeats >= 1, "repeats is ", o.repeats, "; at least 1 is right");
  check(o.seed >= 0, "seed is ", o.seed, "; at least 0 is right");
  for (const std::string& name : split_list(o.rows)) {
    AttentionOptions row;
    row.attention = name;
    check(row.ours() || name == "sdpa" || name == "standard", "rows names ", name, "; ", patterns_for_help(),
          " | sdpa | standard are right, with commas");
  }
}

namespace {

// Over heads, in whole blocks.
Index average_top_k(const HsaOptions& o) {
  Index sum = 0, heads = std::max<Index>(1, std::ssize(o.head_top_k));
  for (Index head = 0; head < heads; ++head) sum += round_up(o.top_k_of(head), o.block);
  return round_up(ceil_div(sum, heads), o.block);
}

}  // namespace

std::vector<AttentionOptions> layers_of_row(const std::string& name, const PretrainedConfig& config,
                                            const std::vector<AttentionOptions>& hsa) {
  std::vector<AttentionOptions> layers = hsa;
  const bool everything = name == "full" || name == "sdpa" || name == "standard";
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (config.windows[i] > 0 || name == "hsa") continue;
    if (layers[i].attention == "full" && !everything) continue;  // so does the model's budget
    const HsaOptions& own = hsa[i].hsa;
    const Index top_k = average_top_k(own);
    if (name == "local" && layers[i].attention == "hsa") {
      layers[i].hsa.window = own.window + round_up(own.sinks, own.block) + top_k;
    }
    layers[i].hsa.top_k = top_k;  // of patterns that know no budgets of heads
    layers[i].attention = name;
  }
  return layers;
}

RecallCounts recall_counts(Index answers, Index numbers) {
  if (answers == 0) return {};
  const Index pass_keys = ceil_div(answers, 5 * kDigitsOfNumber);
  return {pass_keys, ceil_div(std::max<Index>(answers - pass_keys * kDigitsOfNumber, 0), numbers * kDigitsOfNumber)};
}

}  // namespace hsattn::lm
